"""Selection reads validation only, and ties have an answer."""

from pathlib import Path

import makers
import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.outcome import selection
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.search import ranking
from sweeps.trial.assignment import Assignment


def trial(number: int, value: float | None, cost: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    made = optuna.create_trial(state=state, value=value, user_attrs={"cost": cost})
    made.number = number
    return made


def candidate(backbone: str, valid: list[float], test: list[float], cost: float = 1.0) -> Candidate:
    runs = tuple(
        Confirmed(
            Assignment(makers.recipe(backbone=backbone, seed=seed), Path(), Path(), key=f"{backbone}-{seed}"),
            {
                "valid_score": valid[seed],
                "test_score": test[seed],
                "test_accuracy_low": test[seed] - 0.1,
                "test_accuracy_high": test[seed] + 0.1,
            },
        )
        for seed in range(len(valid))
    )
    return Candidate(cell=backbone, runs=runs, cost=cost)


def test_the_highest_score_wins_and_ties_go_to_the_cheapest_then_the_first() -> None:
    trials = [trial(0, 0.7, 1.0), trial(1, 0.8, 3.0), trial(2, 0.8, 2.0), trial(3, 0.8, 2.0)]
    best = ranking.best_trial(trials)
    assert best is not None
    assert best.number == 2


def test_trials_that_did_not_complete_cannot_win() -> None:
    assert ranking.best_trial([trial(0, 0.9, 1.0, TrialState.PRUNED)]) is None


def test_the_champion_is_chosen_by_mean_validation_and_not_by_test() -> None:
    steady = candidate("steady", [0.6, 0.6], [0.5, 0.5])
    lucky = candidate("lucky", [0.5, 0.6], [0.9, 0.9])
    assert selection.champion([lucky, steady]).cell == "steady"


def test_equal_candidates_go_to_the_cheaper_one() -> None:
    dear, cheap = candidate("a-dear", [0.6], [0.5], cost=2.0), candidate("cheap", [0.6], [0.5], cost=1.0)
    assert selection.champion([dear, cheap]).cell == "cheap"


def test_two_backbones_of_one_last_name_are_labelled_by_their_cells() -> None:
    def labelled(cell: str, method: str) -> str:
        run = Confirmed(Assignment(makers.recipe(backbone="run1/b", method=method), Path(), Path(), key="k"), {})
        return Candidate(cell, (run,), 1.0).label

    assert labelled("b-1a2b3c.tones", "pairtune") == labelled("b-1a2b3c.tones.frozen", "frozen") == "b-1a2b3c"


def test_test_is_reported_as_mean_and_sample_deviation() -> None:
    mean, deviation = candidate("x", [0.5, 0.5], [0.4, 0.6]).test
    assert abs(mean - 0.5) < 1e-12
    assert abs(deviation - 0.02**0.5) < 1e-12


def test_the_explanation_names_the_runner_up_and_a_margin_within_the_spread() -> None:
    winner, other = candidate("winner", [0.5, 0.7], [0.5, 0.5]), candidate("other", [0.59, 0.59], [0.5, 0.5])
    said = selection.explain(winner, [winner, other])
    assert "other" in said
    assert "0.0100 behind" in said
    assert "less than the spread" in said
    assert "alone: 0.400 to 0.600 (95 per cent interval)" in said
