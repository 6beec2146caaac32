"""The study on a real SQLite storage: what one process asked and told, the next one reads."""

from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from sweeps.search.durable_study import DurableStudy
from sweeps.search.studies import open_storage

SPACE = {"rate": FloatDistribution(1e-3, 1e-1, log=True)}


def opened(folder: Path) -> DurableStudy:
    """As a process does that knows nothing but the folder."""
    return DurableStudy("a-cell", open_storage(f"sqlite:///{folder / 'optuna.db'}"), pruner=optuna.pruners.NopPruner())


def test_what_was_asked_and_told_is_read_again(tmp_path: Path) -> None:
    study = opened(tmp_path)
    ended, stopped, failed, running = (study.ask(SPACE, RandomSampler(seed)) for seed in range(4))
    study.report(ended, 0.25, step=1)
    study.report(stopped, 0.5, step=2)
    study.tell(ended, TrialState.COMPLETE, 0.75, cost=3.0)
    study.tell(stopped, TrialState.PRUNED)
    study.tell(failed, TrialState.FAIL)
    again = opened(tmp_path)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in again.trials] == states
    assert [trial.value for trial in again.trials] == [0.75, 0.5, None, None]  # a pruned one: its last early score
    assert [trial.params for trial in again.trials] == [one.params for one in (ended, stopped, failed, running)]
    assert (again.trials[0].user_attrs, again.trials[0].intermediate_values) == ({"cost": 3.0}, {1: 0.25})


def test_a_trial_that_was_not_told_is_told_by_the_next_process(tmp_path: Path) -> None:
    asked = opened(tmp_path).ask(SPACE, RandomSampler(0))
    again = opened(tmp_path)
    [adopted] = again.running()
    assert adopted.params == asked.params
    again.tell(adopted, TrialState.COMPLETE, 1.0)
    assert [trial.value for trial in opened(tmp_path).trials] == [1.0]


def test_a_step_told_twice_counts_once(tmp_path: Path) -> None:
    study = opened(tmp_path)
    trial = study.ask(SPACE, RandomSampler(0))
    for value in (0.25, 0.5):
        study.report(trial, value, step=1)
    assert study.trials[0].intermediate_values == opened(tmp_path).trials[0].intermediate_values == {1: 0.25}


def test_the_first_suggestion_is_asked_once(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.suggest_first({"rate": 0.01})
    assert study.trials == []  # suggested is not asked
    assert study.ask(SPACE, RandomSampler(0)).params == {"rate": 0.01}
    again = opened(tmp_path)
    again.suggest_first({"rate": 0.01})
    assert again.ask(SPACE, RandomSampler(1)).params != {"rate": 0.01}
