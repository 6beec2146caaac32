"""Runs after the search: how many are followed at a time, and that MLflow hears of each though the journal is lost."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import makers
import pytest

from audioconfit import files
from sweeps.outcome import runs
from sweeps.search import tuning
from sweeps.search.studies import Budget, Studies, open_storage
from sweeps.slots.job_queue import Job
from sweeps.slots.jobs import Update
from sweeps.tracking.tracker import Tracker
from sweeps.trial.assignment import RESULT, Assignment


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


def leave_result(assignment: Assignment) -> None:
    files.write(assignment.folder / RESULT, json.dumps({"metrics": {"valid_score": 0.75}}))


def test_what_is_done_and_stands_in_no_line_of_the_journal_is_told_to_mlflow(tmp_path: Path) -> None:
    """A trial and a confirmation, whose driver was killed and whose journal was lost."""
    cell = makers.cell()
    studies = Studies(
        [cell],
        budget=Budget(3),
        root=tmp_path,
        sweep=makers.IDENTITY,
        storage=open_storage(f"sqlite:///{tmp_path / 'optuna.db'}"),
        shared=False,
    )
    for name, end in (("done", {"valid_score": 0.75, "cost": 1.0, "ended": True}), ("failed", {"failed": "no"})):
        asked = studies.start(name)
        assert asked is not None
        if name == "done":
            leave_result(studies.assignment(asked))
        studies.finish(name, end)
    confirmed = runs.CONFIRMATION.assignment(cell, makers.recipe(), tmp_path, None)
    missing = runs.CONFIRMATION.assignment(cell, makers.recipe(seed=1), tmp_path, None)
    leave_result(confirmed)
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", makers.IDENTITY, tmp_path / "tracking")
    for _ in range(2):  # and only once
        tuning.settle(studies, tracker)
        runs.settle(runs.CONFIRMATION, [cell], [confirmed, missing], tracker)
    assert tracker.flush()
    found = tracker.client.search_runs([tracker.experiment], "tags.kind != 'cell'")
    tracker.close()
    told = {run.data.tags["key"]: (run.info.status, run.data.metrics["valid_score"]) for run in found}
    assert told == dict.fromkeys([cell.key(0), confirmed.key], ("FINISHED", 0.75))
    assert len(found) == 2
