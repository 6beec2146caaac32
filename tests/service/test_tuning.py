"""The search on a real Ray Tune with trials that take no time: what a trial reports reaches its study and stops it."""

import logging.handlers
from pathlib import Path

import makers
import pytest
import service
from mlflow import MlflowClient
from optuna.trial import TrialState
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from sweeps.cluster import joining
from sweeps.search.studies import STARTUP_TRIALS

TRIALS = STARTUP_TRIALS + 7


@pytest.fixture(scope="module")
def ran(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[service.Ran, Path]:
    root = tmp_path_factory.mktemp("search")
    return service.run([makers.cell(epochs=3)], trials=TRIALS, root=root), root


def test_every_trial_has_its_early_score_in_the_study(ran: tuple[service.Ran, Path]) -> None:
    studies = ran[0].studies
    (cell,) = studies.cells.values()
    trials = studies.history(cell)
    assert len(trials) == TRIALS
    assert all(list(trial.intermediate_values) == [1] for trial in trials)
    assert all(trial.value == trial.intermediate_values[1] for trial in trials)


def test_trials_behind_the_better_half_are_stopped_but_none_of_the_first(ran: tuple[service.Ran, Path]) -> None:
    studies = ran[0].studies
    (cell,) = studies.cells.values()
    trials = studies.history(cell)
    assert {trial.state for trial in trials[:STARTUP_TRIALS]} == {TrialState.COMPLETE}
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        before = sorted(earlier.intermediate_values[1] for earlier in trials[: trial.number])
        assert trial.intermediate_values[1] < before[-1]


def test_mlflow_says_of_each_trial_what_the_study_says(ran: tuple[service.Ran, Path]) -> None:
    studies, root = ran[0].studies, ran[1]
    (cell,) = studies.cells.values()
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("benchmark").experiment_id], "tags.kind = 'trial'")
    outcomes = {run.data.tags["key"]: run.data.tags["outcome"] for run in found}
    assert outcomes == {
        f"{cell.name}-{trial.number:04d}": {"COMPLETE": "complete", "PRUNED": "pruned"}[trial.state.name]
        for trial in studies.history(cell)
    }


def test_a_killed_process_of_a_trial_is_no_traceback_and_a_bug_is_one() -> None:
    joining.silence()
    tunes, seen = logging.getLogger("ray.tune.execution.tune_controller"), logging.handlers.BufferingHandler(10)
    tunes.addHandler(seen)
    try:
        tunes.error("Trial task failed", exc_info=RayActorError())
        tunes.error("Trial task failed", exc_info=ValueError("ours"))
        as_it_was_made = RayTaskError("Trial", "its traceback", ValueError("ours, too"))
        tunes.error("Trial task failed", exc_info=ActorDiedError(as_it_was_made))
    finally:
        tunes.removeHandler(seen)
    assert [type(record.exc_info[1]) for record in seen.buffer] == [ValueError, ActorDiedError]
