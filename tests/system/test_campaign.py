"""A campaign: random faults at random moments over small sweeps, each followed by the same command until it ends well.

Reproducible from its seed. By hand, a hundred rounds of about a minute each on two idle cores:
`CAMPAIGN_ROUNDS=100 CAMPAIGN_SEED=7 pytest -m slow tests/system/test_campaign.py -s`
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import databases
import drivers
import makers
import optuna
import pytest
from drivers import Driver
from mlflow import MlflowClient

from sweeps import check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROUNDS, SEED = int(os.environ.get("CAMPAIGN_ROUNDS", "1")), int(os.environ.get("CAMPAIGN_SEED", "0"))
TRIALS, STARTS = 6, 6  # of a sweep; of the command, until it must have ended well
ENDED_WELL, TO_GO_ON = 0, (2, 1, 130, 143)  # exit codes; 1: MLflow lacks something
# Processes by how their titles begin.
WORKER, QUEUE, CONTROLLER = "ray::RayTrainWorker", "ray::JobQueue", "ray::TrainController"
PROXY = "ray::ResourceTrainable"  # what Tune makes of our Trial
RAYLET, CONTROL = "raylet", "gcs_server"


@dataclass
class Round:
    """One sweep and what happened to it."""

    number: int
    storage: Path
    draw: random.Random
    port: int | None = None  # of its MLflow server
    exits: list[int] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)


def kill(title: str) -> Callable[[Driver, Round], None]:
    """kill -9 of a process of that title, if there is one."""

    def strike(run: Driver, round_: Round) -> None:
        found = [pid for pid in drivers.descendants(run.process.pid) if title in drivers._title(pid)]
        if found:
            with suppress(ProcessLookupError):
                os.kill(round_.draw.choice(found), signal.SIGKILL)
        round_.hit.append(f"{title} {'killed' if found else 'not there'}")

    return strike


def kill_driver(run: Driver, round_: Round) -> None:
    run.kill()
    round_.hit.append("driver killed")


def stop_driver(run: Driver, round_: Round) -> None:
    seconds = round_.draw.uniform(1.0, 5.0)
    run.tell(signal.SIGSTOP)
    time.sleep(seconds)
    run.tell(signal.SIGCONT)
    round_.hit.append(f"driver stopped for {seconds:.0f} s")


def damage_file(run: Driver, round_: Round) -> None:
    """Halves or empties a file of the sweep, or writes garbage behind it, after the driver was killed."""
    run.kill()
    folder = round_.storage / drivers.NAME
    patterns = ("optuna.db", "tracking/events.jsonl", "stages/*/*.safetensors", "trials/*/result.json", "conduct.json")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.stat().st_size)
    if not found:
        round_.hit.append("driver killed, nothing to damage")
        return
    path, how = round_.draw.choice(found), round_.draw.choice(["halved", "emptied", "garbage behind"])
    if path.suffix == ".jsonl" or how == "garbage behind":
        with path.open("ab") as file:
            file.write(b"\x00garbage\n")
        how = "garbage behind"
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if how == "halved" else b"")
    round_.hit.append(f"driver killed, {path.relative_to(folder)}: {how}")


FAULTS = {
    "driver": kill_driver,
    "worker": kill(WORKER),
    "queue": kill(QUEUE),
    "controller": kill(CONTROLLER),
    "proxy": kill(PROXY),
    "raylet": kill(RAYLET),
    "control": kill(CONTROL),
    "stop": stop_driver,
    "damage": damage_file,
    "mlflow": None,  # its server, killed and started again
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.tones(tmp_path_factory.mktemp("data") / "tones", classes=3, clips=12, noise=7.0)


def command(data: Path, storage: Path, *more: str) -> list[str]:
    """A sweep whose trials take a fraction of a second: a frozen backbone, one stage, six probes."""
    return [
        *("--datasets", str(data), "--backbones", "wav2vec2-random", "--methods", "frozen", "--chunks", "0.25"),
        *("--storage", str(storage), "--name", drivers.NAME, "--trials", str(TRIALS), "--seeds", "1", "--slots", "1"),
        *("--select", "holdout", "--patience", "20", "--wait", "400", *more),
    ]


def found(storage: Path, uri: str) -> dict[str, Any]:
    """What a finished sweep found: each trial, the champion and its scores; and that MLflow has each run once."""
    study = optuna.load_study(
        study_name=f"{drivers.CELL}.frozen",
        storage=f"sqlite:///{storage / drivers.NAME / 'optuna.db'}",
    )
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(drivers.NAME).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    keys = [run.data.tags["key"] for run in runs]
    assert len(set(keys)) == len(keys), "two runs of one trial"
    champion = client.get_model_version_by_alias("audioconfit-tones", "champion").tags["key"]
    result = json.loads((storage / drivers.NAME / "trials" / champion / "result.json").read_text())
    return {
        "trials": [(one.params, one.state.name, one.value) for one in study.get_trials()],
        "runs": sorted(keys),
        "champion": (champion, result["recipe"], result["metrics"]),
    }


def strike(round_: Round, run: Driver, name: str, servers: ExitStack) -> None:
    """Waits for a random moment of this start, and lets the fault happen; unless the sweep ended before it."""
    moment = round_.draw.choice(["start", *range(TRIALS), "confirmation"])
    delay = round_.draw.uniform(0.0, 12.0 if moment == "start" else 1.5)
    reached: Callable[[], bool] = {
        "start": lambda: True,
        "confirmation": lambda: drivers.confirming(round_.storage),
    }.get(moment, lambda: drivers.ended(round_.storage, int(moment)))
    deadline = time.monotonic() + 400
    while not reached() and run.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(delay)
    round_.hit.append(f"[{moment} + {delay:.1f} s]")
    if run.process.poll() is not None:
        round_.hit.append("it had ended")
    elif name == "mlflow":
        servers.close()
        time.sleep(round_.draw.uniform(2.0, 6.0))
        servers.enter_context(databases.mlflow_server(round_.storage.parent, int(round_.port or 0)))
        round_.hit.append("MLflow server killed, and back")
    else:
        FAULTS[name](run, round_)  # type: ignore[misc]


def repair(round_: Round) -> None:
    """What the sentence tells people to run."""
    script = [sys.executable, str(drivers.ROOT / "sweeps" / "check.py"), str(round_.storage), "--repair"]
    subprocess.run(script, env=drivers.environment(), check=False, capture_output=True)
    round_.hit.append("repaired")


def survive(data: Path, round_: Round, faults: list[str], servers: ExitStack) -> None:
    """The command, with a fault in each of its first starts, until it ends well."""
    uri = () if round_.port is None else ("--tracking-uri", f"http://127.0.0.1:{round_.port}")
    for start in range(STARTS):
        said = round_.storage.parent / f"said-{start}"
        with drivers.ray_folder() as place, drivers.driver(command(data, round_.storage, *uri), said, **place) as run:
            if start < len(faults):
                strike(round_, run, faults[start], servers)
            round_.exits.append(run.process.poll() if run.process.poll() is not None else run.wait(600.0))
            words = run.said()
        if round_.exits[-1] == -signal.SIGKILL:
            continue  # by us
        assert "Traceback (most recent call last)" not in words, f"{round_}\n{words}"
        assert round_.exits[-1] in (ENDED_WELL, *TO_GO_ON), f"{round_}\n{words}"
        if "--repair" in words:
            repair(round_)
        if round_.exits[-1] == ENDED_WELL and start >= len(faults) - 1:
            return
    raise AssertionError(f"{round_} did not end well in {STARTS} starts; the last one said\n{words}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_whatever_happens_at_whatever_moment_the_same_command_ends_with_the_same(data: Path, tmp_path: Path) -> None:
    def fresh(name: str, number: int) -> Round:
        (tmp_path / name).mkdir()
        return Round(number, tmp_path / name / "storage", random.Random(f"{SEED} {number}"))

    undisturbed = fresh("undisturbed", -1)
    with ExitStack() as none:
        survive(data, undisturbed, [], none)
    wanted = found(undisturbed.storage, f"sqlite:///{undisturbed.storage / 'mlflow.db'}")
    assert len(wanted["trials"]) == TRIALS
    order = [
        name for lap in range(ROUNDS) for name in random.Random(f"{SEED} {lap}").sample(sorted(FAULTS), len(FAULTS))
    ]
    for number in range(ROUNDS):
        began, one = time.monotonic(), fresh(f"round-{number}", number)
        # Each fault in turn, by a random order; a second one in half of the rounds.
        faults = [order[number]]
        if one.draw.random() < 0.5 and faults != ["mlflow"]:
            faults.append(one.draw.choice([name for name in sorted(FAULTS) if name != "mlflow"]))
        uri = f"sqlite:///{one.storage / 'mlflow.db'}"
        with ExitStack() as servers:
            if faults == ["mlflow"]:
                one.port = free_port()
                uri = f"http://127.0.0.1:{one.port}"
                servers.enter_context(databases.mlflow_server(one.storage.parent, one.port))
            survive(data, one, faults, servers)
            print(f"round {number}: {one.hit}, exit codes {one.exits}, {time.monotonic() - began:.0f} s", flush=True)
            if "damage" in faults:  # of a trial that nothing needs any more: no start looks at it
                repair(one)
            assert list(check.audit(one.storage.absolute())) == []
            assert found(one.storage, uri) == wanted, one
