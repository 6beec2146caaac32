"""The whole service around trials that take no time: studies on SQLite, the job queue, a warm slot, Tune, MLflow."""

import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import toys
from rich.console import Console

from sweeps.cluster import joining
from sweeps.identity import Identity
from sweeps.request.cells import Cell
from sweeps.search import tuning
from sweeps.search.studies import Budget, Studies, open_storage
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool, SlotShape
from sweeps.terminal.live import LiveTable
from sweeps.tracking.tracker import Tracker
from sweeps.trial.stages import StageStore


@dataclass
class Timed(tuning.Record):
    """Also notes when each trial ended: on the clock, and in CPU seconds of this process."""

    ends: list[tuple[float, float]] = field(default_factory=list)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        super().on_trial_complete(iteration, trials, trial, **info)
        self.ends.append((time.perf_counter(), time.process_time()))


@dataclass(frozen=True)
class Ran:
    """A search that ended. `began` and `told` are on the clock of `ends`; MLflow had everything at `told`."""

    studies: Studies
    tracker: Tracker
    began: float
    ends: list[tuple[float, float]]
    told: float


def run(cells: Sequence[Cell], *, trials: int, root: Path) -> Ran:
    """`trials` trials of each cell on one warm slot, which is up before the clock starts. Ray must be running."""
    joining.silence()
    sweep, storage = Identity("benchmark", "0123456789ab"), open_storage(f"sqlite:///{root / 'optuna.db'}")
    studies = Studies(cells, budget=Budget(trials), root=root, sweep=sweep, storage=storage, shared=False)
    tracker = Tracker(f"sqlite:///{root / 'mlflow.db'}", sweep, root / "tracking")
    table = LiveTable(cells, trials=trials, console=Console(file=io.StringIO()))
    record = Timed(studies, tracker, table, StageStore(root), 1)
    jobs = Jobs.start()
    pool = Pool(jobs, toys.trial, slots=1, shape=SlotShape(), storage=root / "train")
    try:
        while jobs.live_slots() < 1:
            time.sleep(0.1)
        began = time.perf_counter()
        for cell in cells:
            tracker.cell(cell.name, tags=cell.tags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Tune's own
            tuning.run(studies, record, jobs, slots=1, storage=root / "tune", halt=pytest.fail)
        tracker.close(timeout_seconds=600)
        told = time.perf_counter()
    finally:
        pool.close()
        for thread in pool.threads:  # a busy machine takes its time, and Ray may end after this
            thread.join(60.0)
    assert not tracker.problems
    return Ran(studies, tracker, began, record.ends, told)
