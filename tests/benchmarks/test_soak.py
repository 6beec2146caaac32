"""Soak: memory, databases and time of a sweep of very many trials that take no time: `SOAK_TRIALS=10000 SOAK_CELLS=100
SOAK_SLOTS=500 pytest -m benchmark -s tests/benchmarks/test_soak.py`.

Studies, Optuna and MLflow on SQLite, journal, job queue, client, pool and the loop of a slot are the real ones, in one
process and without Ray's (tests/support/without_ray.py), so that what grows is ours. sweeps/README.md has the figures.
"""

import io
import os
import time
from pathlib import Path

import heading
import makers
import numpy as np
import pytest
import service
import toys
import without_ray
from rich.console import Console

from sweeps.search.studies import Budget, Studies, open_storage
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import SlotShape
from sweeps.terminal.live import LiveTable
from sweeps.tracking.tracker import Tracker
from sweeps.trial.stages import StageStore

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]
TRIALS, CELLS, SLOTS = (
    int(os.environ.get(f"SOAK_{name}", usual)) for name, usual in (("TRIALS", 500), ("CELLS", 5), ("SLOTS", 1))
)
MOST_MB = 25.0  # in 1000 trials
PAGE = os.sysconf("SC_PAGE_SIZE")


class Weighed(service.Timed):
    """Also notes the memory of this process when each trial ended."""

    memory: list[float] = []  # noqa: RUF012  (one instance)

    def on_trial_complete(self, *words: object, **more: object) -> None:
        super().on_trial_complete(*words, **more)
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6)


def test_many_trials_grow_nothing_but_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray.replace(put=monkeypatch.setattr)
    cells = [makers.cell(seed=seed, backbone=f"backbone-{seed}") for seed in range(CELLS)]
    studies = Studies(
        cells,
        budget=Budget(TRIALS // CELLS),
        root=tmp_path,
        sweep=makers.IDENTITY,
        storage=open_storage(f"sqlite:///{tmp_path / 'optuna.db'}"),
        shared=False,
    )
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", makers.IDENTITY, tmp_path / "tracking")
    record = Weighed(
        studies,
        tracker,
        LiveTable(cells, trials=TRIALS // CELLS, console=Console(file=io.StringIO())),
        StageStore(tmp_path),
        1,
    )
    jobs = Jobs.start()
    pool = without_ray.Threads(jobs, toys.trial, slots=SLOTS, shape=SlotShape(), storage=tmp_path / "train")
    began = time.perf_counter()
    without_ray.search(studies, record, jobs, slots=SLOTS, storage=tmp_path, halt=pytest.fail)
    assert tracker.flush(600)
    seconds = time.perf_counter() - began
    pool.close()
    jobs.end()
    tracker.close()
    assert len(record.memory) == len(record.ends) == TRIALS
    spent = np.diff([cpu for _, cpu in record.ends]) * 1000
    tenth = TRIALS // 10
    slope = np.polyfit(np.arange(tenth, TRIALS) / 1000, record.memory[tenth:], 1)[0]
    heading.show(f"{TRIALS} trials of {CELLS} cells, {SLOTS} slots, {seconds:.0f} s")
    print(f"memory: {record.memory[tenth]:.0f} MB after a tenth, {record.memory[-1]:.0f} MB at the end, slope", end=" ")
    print(f"{slope:.1f} MB in 1000 trials")
    print(f"CPU per trial: {spent[:tenth].mean():.1f} ms in the first tenth, {spent[-tenth:].mean():.1f} in the last")
    for name in ("optuna.db", "mlflow.db", "tracking/events.jsonl"):
        print(f"{name}: {(tmp_path / name).stat().st_size / 1e6:.2f} MB")
    assert slope < MOST_MB
