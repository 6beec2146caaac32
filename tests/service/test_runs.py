"""Runs after the search: how many of them are followed at a time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import makers
import pytest

from sweeps.outcome import runs
from sweeps.slots.job_queue import Job
from sweeps.slots.jobs import Update
from sweeps.tracking.tracker import Tracker


class Counting:
    """Jobs that take a moment each; `most` were followed at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.keys: list[str] = []
        self.lock = threading.Lock()

    def results(self, job: Job) -> Iterator[Update]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.keys.append(job.key)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        yield Update(1, {"ended": True})


def test_no_more_runs_are_followed_at_a_time_than_the_queue_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each follower is a call that the queue keeps open; at a thousand of them it answers nobody."""
    assert runs.MOST_FOLLOWED < 1000
    monkeypatch.setattr(runs, "MOST_FOLLOWED", 3)
    cell, jobs = makers.cell(), Counting()
    work = [(cell, runs.CONFIRMATION.assignment(cell, makers.recipe(seed=seed), tmp_path, None)) for seed in range(9)]
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", makers.IDENTITY, tmp_path / "tracking")
    following: Any = jobs
    assert runs.carry_out(runs.CONFIRMATION, following, work, tracker) == {}
    tracker.close()
    assert jobs.most == 3
    assert sorted(jobs.keys) == sorted(one.key for _, one in work)
