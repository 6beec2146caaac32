"""Drivers: the command as a process of its own, to be killed and interrupted from outside, and the audit of what it
left.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState

from audioconfit.recipe import Recipe
from sweeps.outcome import runs
from sweeps.search import ranking
from sweeps.trial import assignment

ROOT = Path(__file__).parents[2]
IMPORTABLE = f"{ROOT}:{Path(__file__).parent}"  # PYTHONPATH of processes that run our code and the toys
GRID = ROOT / "sweeps" / "grid.py"
NAME, CELL = "try", "wav2vec2-random.tones"
OUTCOMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


# MLflow writes this one itself when a test of this process sets its tracking; the others are a developer's own.
PLACES = ("AUDIOCONFIT_DATA", "AUDIOCONFIT_STORAGE", "AUDIOCONFIT_OPTUNA_STORAGE", "MLFLOW_TRACKING_URI")


def environment(**more: str) -> dict[str, str]:
    """What a command of ours is started with: nothing that tells it of other places than its flags do."""
    inherited = {name: value for name, value in os.environ.items() if name not in PLACES}
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORTABLE, "RAY_ADDRESS": "local"} | more


class Driver:
    """One start of the command, in a process group of its own, as a shell would start it."""

    def __init__(self, arguments: list[str], output: Path, *, script: Path = GRID, **settings: str) -> None:
        self.output = output
        with output.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(**settings),
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also where nohup started the tests
            )
        self.orphans: set[int] = set()  # its workers when it was killed

    def wait(self, timeout: float = 480.0) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the driver did not end in {timeout:.0f} s; it said:\n{self.said()}") from None

    def until(self, condition: Callable[[], Any], timeout: float = 360.0) -> None:
        """Returns as soon as the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"the driver ended too early; it said:\n{self.said()}"
            assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain; the driver said:\n{self.said()}"
            time.sleep(0.002)

    def kill(self) -> None:
        """kill -9."""
        self.orphans |= set(self.workers())
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C in a terminal: the whole process group hears of it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def tell(self, number: signal.Signals) -> None:
        """A signal to the driver alone, as a pod's or a spot machine's end sends it."""
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        """The processes of its slots."""
        return [pid for pid in descendants(self.process.pid) if _title(pid).startswith("ray::RayTrainWorker")]

    def said(self) -> str:
        return self.output.read_text()


@contextmanager
def driver(arguments: list[str], output: Path, **how: Any) -> Iterator[Driver]:
    """A driver that does not outlive the block."""
    started = Driver(arguments, output, **how)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@contextmanager
def ray_folder() -> Iterator[dict[str, str]]:
    """The setting that gives a cluster its own place: no other Ray of this machine will take it for its own."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets want short paths
        yield {"RAY_TMPDIR": folder}


def descendants(pid: int) -> list[int]:
    """The process' children and theirs."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended as we looked
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


# What a sweep has reached, read from outside while it runs.


def reported(storage: Path, number: int, step: int = 1) -> bool:
    """Whether Optuna has an early score of the trial at this step."""
    found = (
        "SELECT 1 FROM trial_intermediate_values v JOIN trials t USING (trial_id) WHERE t.number = ? AND v.step >= ?"
    )
    return bool(_rows(storage / NAME / "optuna.db", found, number, step))


def ended(storage: Path, number: int) -> bool:
    """Whether Optuna was told how the trial ended."""
    found = "SELECT 1 FROM trials WHERE number = ? AND state NOT IN ('RUNNING', 'WAITING')"
    return bool(_rows(storage / NAME / "optuna.db", found, number))


def is_writing(database: Path) -> bool:
    """Whether a transaction is under way: SQLite keeps its journal beside the database for as long."""
    return database.with_name(f"{database.name}-journal").exists()


def confirming(storage: Path) -> bool:
    """Whether the confirmation on test has begun."""
    journal = storage / NAME / "tracking" / "events.jsonl"
    return journal.exists() and "-test-" in journal.read_text()


def raced(storage: Path) -> int:
    """How many of the finalists' runs are done."""
    return len(list((storage / NAME / "trials").glob(f"*{runs.FINALIST.mark}*/{assignment.RESULT}")))


def _rows(database: Path, query: str, *values: Any) -> list[Any]:
    if not database.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5.0)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.OperationalError:  # its tables are not there yet
        return []


# The audit.


@dataclass(frozen=True)
class Ledger:
    """What a finished sweep of one cell found: equal for equal seeds, however often it was disturbed."""

    trials: tuple[tuple[dict[str, Any], str, float | None], ...]
    champion: dict[str, Any]
    scores: dict[str, float]
    trained: tuple[int, ...] = field(compare=False)  # the trials that found no finished stage 1

    def count(self, state: str) -> int:
        return sum(was == state for _, was, _ in self.trials)


def audit(storage: Path, *, trials: int) -> Ledger:
    """Reads Optuna, MLflow and the stage store of a finished sweep and asserts that they agree."""
    study = optuna.load_study(study_name=CELL, storage=f"sqlite:///{storage / NAME / 'optuna.db'}")
    asked = study.get_trials()
    assert len(asked) == trials
    assert {one.state for one in asked} <= set(OUTCOMES), "a trial was left running or waiting"
    points = [tuple(sorted(one.params.items())) for one in asked]
    assert len(set(points)) == len(points), "a point was tried twice"

    champion = _audit_tracking(storage, asked)
    _audit_files(storage, study, asked)
    result = json.loads((storage / NAME / "trials" / champion / assignment.RESULT).read_text())
    return Ledger(
        tuple((one.params, one.state.name, one.value) for one in asked),
        champion=result["recipe"],
        scores=result["metrics"],
        trained=tuple(one.number for one in asked if one.intermediate_values),
    )


def _audit_tracking(storage: Path, asked: list[Any]) -> str:
    """MLflow against Optuna. Returns the champion's key."""
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}
    twice = [key for key, count in Counter(run.data.tags["key"] for run in runs).items() if count > 1]
    assert not twice, "two runs of one trial"
    by_key = {run.data.tags["key"]: run for run in runs}
    tracked = {key for key, run in by_key.items() if run.data.tags["kind"] == "trial"}
    assert tracked == {f"{CELL}-{one.number:04d}" for one in asked}
    for one in asked:
        run = by_key[f"{CELL}-{one.number:04d}"]
        assert run.data.tags["outcome"] == OUTCOMES[one.state]
        assert run.info.status == ("FAILED" if one.state == TrialState.FAIL else "FINISHED")
        assert float(run.data.params["probe_lr"]) == one.params["probe_lr"]
        if one.state == TrialState.COMPLETE:
            assert run.data.metrics["valid_score"] == one.value
            steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
            assert steps == list(range(1, int(run.data.params["epochs"]) + 1)), "an epoch is missing or told twice"
    versions = client.search_model_versions("name = 'audioconfit-tones'")
    assert len(versions) == 1
    assert client.get_model_version_by_alias("audioconfit-tones", "champion").version == versions[0].version
    return versions[0].tags["key"]


def stage_of(result: Path) -> str:
    """The stage of the recipe behind a result."""
    return Recipe(**json.loads(result.read_text())["recipe"]).stage_key


def _audit_files(storage: Path, study: optuna.Study, asked: list[Any]) -> None:
    """The stage store and the trials' folders against Optuna."""
    root = storage / NAME
    recipe = json.loads(next((root / "trials").glob(f"*/{assignment.RESULT}")).read_text())["recipe"]
    base = Recipe(**recipe).model_copy(update={"seed": 0, "inner_fold": 0})
    stages = {one.number: base.model_copy(update=one.params).stage_key for one in asked}
    complete = {stages[one.number] for one in asked if one.state == TrialState.COMPLETE}
    raced = {stage_of(path) for path in (root / "trials").glob(f"*{runs.FINALIST.mark}*/{assignment.RESULT}")}
    confirmed = {stage_of(path) for path in (root / "trials").glob(f"*{runs.CONFIRMATION.mark}*/{assignment.RESULT}")}
    kept = {path.name for path in (root / "stages").iterdir()}
    assert kept == complete | raced, "a stage is missing, or nobody's"
    for stage in kept:
        files = {path.name for path in (root / "stages" / stage).iterdir()}
        assert files >= {"train.safetensors", "valid.safetensors", "curve.json"}
        assert files <= {
            "train.safetensors",
            "valid.safetensors",
            "curve.json",
            "test.safetensors",
            "sums.json",
            "encoder",
        }
    best = ranking.by_score(asked)[0]
    assert {path.parent.name for path in root.glob("stages/*/encoder")} == {stages[best.number]} | confirmed
    resting = {path.name.removesuffix(".pt") for path in (root / "inflight").iterdir()}
    assert resting <= set(stages.values()) - complete, "the checkpoint of a stage that is done"
    for one in asked:
        if one.state == TrialState.COMPLETE:
            left = root / "trials" / f"{CELL}-{one.number:04d}" / assignment.RESULT
            assert json.loads(left.read_text())["metrics"]["valid_score"] == one.value
