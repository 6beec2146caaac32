"""Early stopping by halves, on hand-made studies."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from sweeps.search.halving import Halving


def stops(curve: dict[int, float], others: list[dict[int, float]], *, first: int = 2, epochs: int = 8) -> bool:
    """Whether the trial with these early scores is stopped at its last one."""
    study = optuna.create_study(direction="maximize", pruner=Halving(first=first, epochs=epochs))
    for scores in others:
        known = {"params": {"x": 0.5}, "distributions": {"x": FloatDistribution(0, 1)}}
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.0, intermediate_values=scores, **known))
    trial = study.ask()
    for step, score in curve.items():
        trial.report(score, step)
    assert trial.should_prune() == trial.should_prune()  # asked again, as after a kill, it says the same
    return trial.should_prune()


def test_the_first_at_a_rung_goes_on() -> None:
    assert not stops({2: 0.1}, [])


@pytest.mark.parametrize(("score", "stopped"), [(0.1, True), (0.3, True), (0.5, False), (0.9, False)])
def test_the_better_half_goes_on(score: float, stopped: bool) -> None:
    assert stops({2: score}, [{2: 0.2}, {2: 0.6}, {2: 0.4}]) == stopped


def test_between_rungs_nothing_is_weighed() -> None:
    assert not stops({1: 0.0}, [{1: 1.0}])
    assert not stops({2: 1.0, 3: 0.0}, [{2: 0.5, 3: 1.0}])


def test_the_last_epoch_is_no_rung() -> None:
    assert stops({2: 1.0, 4: 0.0}, [{2: 0.5, 4: 1.0}], epochs=8)
    assert not stops({2: 1.0, 4: 0.0}, [{2: 0.5, 4: 1.0}], epochs=4)


def test_a_rung_without_a_report_is_weighed_at_the_next_one() -> None:
    assert stops({3: 0.1}, [{3: 0.9}], first=2)
