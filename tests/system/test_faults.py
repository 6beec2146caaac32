"""Faults, each on the real command in processes of its own: whatever is killed, hangs, breaks or fills up, the same
command again ends with what the undisturbed sweep would have found.

About 20 s per start on an idle machine with two cores: 8 minutes in all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databases
import drivers
import faulty_grid
import growing
import makers
import pytest
from drivers import Driver, Ledger, audit, driver
from mlflow import MlflowClient

from sweeps.outcome import race
from sweeps.request import resuming
from sweeps.search.studies import STARTUP_TRIALS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TRIALS, EPOCHS = STARTUP_TRIALS + 4, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy enough that recipes differ in what they reach."""
    return makers.tones(tmp_path_factory.mktemp("data") / "tones", classes=4, clips=20, noise=7.0)


def command(data: Path, storage: Path, *more: str) -> list[str]:
    return [
        *("--datasets", str(data), "--backbones", "wav2vec2-random", "--storage", str(storage), "--name", drivers.NAME),
        *("--trials", str(TRIALS), "--epochs", str(EPOCHS), "--seeds", "1", "--slots", "1"),
        # Without the race, whose runs are jobs like any other: it would double what each of these sweeps takes.
        *("--batch-sizes", "8,16", "--chunks", "0.25,0.3,0.4,0.5", "--select", "holdout", *more),
    ]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with driver(command(data, folder), folder / "said") as run:
        assert run.wait() == 0, run.said()
    ledger = audit(folder, trials=TRIALS)
    assert ledger.count("PRUNED") >= 1  # so that stopping is disturbed, too
    assert ledger.trained[-1] >= STARTUP_TRIALS
    return ledger


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


def finish(arguments: list[str], output: Path) -> str:
    """The same command again, until it ends. Returns what it said."""
    with driver(arguments, output) as run:
        assert run.wait() == 0, run.said()
        return run.said()


def assert_gone(killed: Driver) -> None:
    """No worker outlives its killed driver for long: it would keep a GPU. (Ray's agents take a minute.)"""
    deadline = time.monotonic() + 20
    while alive := {pid for pid in killed.orphans if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, f"outlived their driver: {alive}"
        time.sleep(0.2)


def test_a_driver_killed_three_times(data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path) -> None:
    arguments = command(data, storage)
    first, last = undisturbed.trained[1], undisturbed.trained[-1]
    moments = [
        lambda: drivers.reported(storage, first, step=2),  # within stage 1
        lambda: drivers.reported(storage, last, step=1),  # where it may be told to stop
        lambda: drivers.confirming(storage),
    ]
    for moment in moments:
        with driver(arguments, tmp_path / "said") as run:
            run.until(moment)
            run.kill()
        assert_gone(run)
    finish(arguments, tmp_path / "said")
    assert audit(storage, trials=TRIALS) == undisturbed


def test_a_driver_killed_while_it_writes(data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path) -> None:
    arguments = command(data, storage)
    studied, tracked = storage / drivers.NAME / "optuna.db", storage / "mlflow.db"
    models = storage / drivers.NAME / "tracking" / "artifacts" / "models"
    moments = [
        lambda: drivers.is_writing(tracked),  # its tables are being made
        lambda: drivers.ended(storage, 1) and drivers.is_writing(studied),
        lambda: drivers.ended(storage, 3) and drivers.is_writing(tracked),
        models.exists,  # the champion is being registered
    ]
    for moment in moments:
        with driver(arguments, tmp_path / "said") as run:
            run.until(moment)
            run.kill()
    finish(arguments, tmp_path / "said")
    assert audit(storage, trials=TRIALS) == undisturbed


def test_a_driver_killed_within_the_race(data: Path, storage: Path, tmp_path: Path) -> None:
    """Three finalists: killed while the second of the first inner fold runs, and once it has ended."""
    short = ("--select", "race", "--finalists", "3", "--trials", "3", "--epochs", "2")
    finish(command(data, tmp_path / "undisturbed", *short), tmp_path / "said")
    arguments = command(data, storage, *short)
    for done in (1, 2):
        with driver(arguments, tmp_path / "said") as run:
            run.until(lambda done=done: drivers.raced(storage) >= done)  # type: ignore[misc]
            run.kill()
        assert_gone(run)
    finish(arguments, tmp_path / "said")
    races = [(root / drivers.NAME / race.RECORD).read_text() for root in (tmp_path / "undisturbed", storage)]
    assert races[0] == races[1]
    assert sum(len(one["scores"]) for one in json.loads(races[0])["tones"]["finalists"]) >= 2
    assert audit(storage, trials=3) == audit(tmp_path / "undisturbed", trials=3)


def test_workers_killed_and_hung(data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path) -> None:
    """kill -9 within stage 1 of two trials; between the two a worker is stopped, which only its silence tells."""
    first, second, _, fourth, *_ = undisturbed.trained
    with driver(command(data, storage, "--patience", "15"), tmp_path / "said") as run:
        for number, blow in ((first, signal.SIGKILL), (second, signal.SIGSTOP), (fourth, signal.SIGKILL)):
            run.until(lambda number=number: drivers.reported(storage, number))  # type: ignore[misc]
            (worker,) = run.workers()
            os.kill(worker, blow)
        assert run.wait() == 0, run.said()
    log = (storage / drivers.NAME / "slots.log").read_text()
    assert log.count("its worker died") >= 2, log
    assert log.count("silent for 15 s") >= 1, log
    assert audit(storage, trials=TRIALS) == undisturbed


def test_trials_that_fail_on_two_slots_under_a_driver_that_is_killed(
    data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path
) -> None:
    """One raises, one runs out of memory, one diverges: each is told with its recipe, and the others go on."""
    arguments, script = command(data, storage, "--slots", "2"), Path(faulty_grid.__file__)
    honest = next(number for number in undisturbed.trained if number > faulty_grid.RAISES)
    assert honest not in (faulty_grid.NO_MEMORY, faulty_grid.DIVERGES)
    with driver(arguments, tmp_path / "said", script=script) as run:
        run.until(lambda: drivers.ended(storage, faulty_grid.RAISES) and drivers.reported(storage, honest))
        run.kill()
    with driver(arguments, tmp_path / "said", script=script) as run:
        assert run.wait() == 0, run.said()
    ledger = audit(storage, trials=TRIALS)
    assert ledger.count("FAIL") == 3
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(drivers.NAME).experiment_id], "tags.outcome = 'failed'")
    told = {int(run.data.tags["key"][-4:]): run.data.tags["why"] for run in runs}
    assert told[faulty_grid.RAISES].startswith("RuntimeError: this trial is broken")
    assert told[faulty_grid.NO_MEMORY].startswith("MemoryError")
    assert told[faulty_grid.DIVERGES].startswith("Diverged: The loss became")
    assert all("Recipe(dataset='tones'" in why for why in told.values())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root can mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass
    return ballast


def test_a_full_disk_ends_the_sweep_and_room_lets_it_go_on(
    data: Path, small_disk: Path, undisturbed: Ledger, tmp_path: Path
) -> None:
    arguments = command(data, small_disk)
    with driver(arguments, tmp_path / "said") as run:
        run.until(lambda: drivers.reported(small_disk, 2))
        ballast = fill(small_disk)
        assert run.wait() == 2, run.said()
        assert "No room left" in run.said()
        assert "run the same command again" in run.said()
        assert "Traceback" not in run.said()
    with driver(arguments, tmp_path / "said again") as run:
        assert run.wait() == 2, run.said()
        assert "make room" in run.said()
    ballast.unlink()
    finish(arguments, tmp_path / "said")
    assert audit(small_disk, trials=TRIALS) == undisturbed


def test_ctrl_c_once_twice_and_a_second_driver(data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path) -> None:
    arguments = command(data, storage)
    with driver(arguments, tmp_path / "once") as run:
        run.until((storage / drivers.NAME / resuming.LEASE).exists)
        with driver(arguments, tmp_path / "second") as second:
            assert second.wait() == 2
            assert f"Another driver (process {run.process.pid} on" in second.said()
        run.until(lambda: drivers.reported(storage, 1))
        run.interrupt()
        assert run.wait(90) == 130, run.said()
        assert "To go on, run the same command" in run.said()
        assert f"--storage {storage}" in run.said()
        assert "Traceback" not in run.said()
    with driver(arguments, tmp_path / "twice") as run:
        run.until(lambda: drivers.reported(storage, 3))
        run.interrupt()
        time.sleep(0.3)
        pressed = time.monotonic()
        run.interrupt()
        assert run.wait(30) == 130, run.said()
        assert time.monotonic() - pressed < 5.0
        assert drivers.reported(storage, 3)
    finish(arguments, tmp_path / "said")
    assert audit(storage, trials=TRIALS) == undisturbed


def test_sigterm_and_sighup_save_what_runs_and_the_next_start_goes_on(
    data: Path, storage: Path, undisturbed: Ledger, tmp_path: Path
) -> None:
    arguments = command(data, storage)
    for number, trial, code in ((signal.SIGTERM, 1, 143), (signal.SIGHUP, 2, 129)):
        with driver(arguments, tmp_path / number.name) as run:
            run.until(lambda trial=trial: drivers.reported(storage, trial))  # type: ignore[misc]
            run.tell(number)
            told = time.monotonic()
            assert run.wait(90) == code, run.said()
            assert time.monotonic() - told < 30.0  # a pod has no more
            assert "To go on, run the same command" in run.said()
            assert "Traceback" not in run.said()
    finish(arguments, tmp_path / "said")
    assert audit(storage, trials=TRIALS) == undisturbed


def test_an_mlflow_server_that_goes_away_twice_loses_nothing(data: Path, storage: Path, tmp_path: Path) -> None:
    """Away within the search and back again, then away for good; the next start registers the champion."""
    port = databases.free_port()
    uri = f"http://127.0.0.1:{port}"
    arguments = command(data, storage, "--tracking-uri", uri, "--trials", "6", "--methods", "frozen")
    with databases.mlflow_server(tmp_path, port):
        run = Driver(arguments, tmp_path / "said")
        run.until(lambda: drivers.ended(storage, 1))
    try:
        run.until(lambda: drivers.ended(storage, 2))
        time.sleep(30.0)
        with databases.mlflow_server(tmp_path, port):
            run.until(lambda: drivers.confirming(storage))
        assert run.wait() == 1, run.said()
    finally:
        if run.process.poll() is None:
            run.kill()
    assert "Traceback" not in run.said()
    assert "not registered yet" in run.said()
    assert "Test: accuracy" in run.said()
    with databases.mlflow_server(tmp_path, port):
        finish(arguments, tmp_path / "said again")
        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([client.get_experiment_by_name(drivers.NAME).experiment_id])
        assert {one.info.status for one in runs} == {"FINISHED"}
        assert Counter(one.data.tags["kind"] for one in runs) == {"trial": 6, "confirmation": 1, "cell": 1}
        assert client.get_model_version_by_alias("audioconfit-tones", "champion").version == "1"


CLUSTER = """
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=cluster.address)
print(cluster.address, flush=True)
input()
ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])  # somebody else's, who keeps them
print("taken", flush=True)
input()
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A cluster of one node with two cores; its first line is its address. Each line to it takes it a step further."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with drivers.ray_folder() as folder, (tmp_path / "cluster").open("w") as errors:
        command = [sys.executable, "-c", CLUSTER]
        with subprocess.Popen(command, **pipes, stderr=errors, env=os.environ | folder) as process:
            yield process
            process.kill()


def test_a_sweep_without_resources_says_so_and_ends(
    data: Path, storage: Path, cluster: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert cluster.stdout is not None
    assert cluster.stdin is not None
    address = cluster.stdout.readline().strip()
    with driver(command(data, storage, "--workers-per-trial", "8"), tmp_path / "never", RAY_ADDRESS=address) as run:
        assert run.wait() == 2
        assert "8 workers with 1 CPU and 0 GPU each, and the cluster has 2 CPU and 0 GPU on 1 node" in run.said()
    print("take them", file=cluster.stdin, flush=True)
    assert cluster.stdout.readline() == "taken\n"
    with driver(command(data, storage, "--wait", "10"), tmp_path / "undecoded", RAY_ADDRESS=address) as run:
        assert run.wait() == 2
        assert "No part of the recordings was decoded for 10 s: the cluster has 2 CPU, 0 of them free" in run.said()
    with driver(command(data, storage, "--dry-run"), tmp_path / "decoded here") as run:
        assert run.wait() == 0
    with driver(command(data, storage, "--wait", "10"), tmp_path / "not now", RAY_ADDRESS=address) as run:
        assert run.wait() == 2
        assert "No slot came up for 10 s: a trial asks for 1 worker with 1 CPU" in run.said()
        assert "Traceback" not in run.said()


def test_a_cluster_that_grows_gets_more_slots_and_gets_back_those_without_work() -> None:
    script = Path(growing.__file__)
    settings = os.environ | {
        "PYTHONPATH": f"{drivers.ROOT}:{drivers.ROOT / 'tests' / 'support'}",
        "OMP_NUM_THREADS": "1",
    }
    with drivers.ray_folder() as folder:
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=settings | folder, capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines() == ["1 up", "2 up", "1 let go, its place is free"], done.stdout + done.stderr
