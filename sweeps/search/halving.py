"""Early stopping within one study: asynchronous successive halving, read off the reported scores alone.

Optuna's SuccessiveHalvingPruner stores that a trial has completed a rung before it decides whether the trial stops
there. A driver killed between the two lets a trial go on that the undisturbed search would have stopped. Here nothing
is stored: the verdict follows from the reported scores and can be asked for again.
"""

from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

FACTOR = 2  # each rung has FACTOR times the epochs of the one below, and one in FACTOR trials goes on


class Halving(BasePruner):
    """Rungs at `first`, 2 `first`, 4 `first`, ... epochs, below `epochs`: stopping at the last one saves nothing.

    A trial goes on from a rung if its score is in the better half of all that have reached the rung; the first to
    reach it always goes on. Scores are maximised.
    """

    def __init__(self, *, first: int, epochs: int) -> None:
        self.first, self.epochs = first, epochs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        rung = self._rung(trial.last_step or 0)
        # Only the report that reaches the rung counts there.
        if rung is None or _step_at(trial, rung) != trial.last_step:
            return False
        rivals = (other for other in study.get_trials(deepcopy=False) if other.number != trial.number)
        others = [score for score in (_score_at(other, rung) for other in rivals) if score is not None]
        return not _goes_on(_score_at(trial, rung), others)

    def _rung(self, step: int) -> int | None:
        """The highest rung that the step has reached."""
        rung = None
        at = self.first
        while at <= step and at < self.epochs:
            rung, at = at, at * FACTOR
        return rung


def _step_at(trial: FrozenTrial, rung: int) -> int | None:
    return min((step for step in trial.intermediate_values if step >= rung), default=None)


def _score_at(trial: FrozenTrial, rung: int) -> float | None:
    step = _step_at(trial, rung)
    return None if step is None else trial.intermediate_values[step]


def _goes_on(score: float | None, others: Sequence[float]) -> bool:
    assert score is not None, "judged at a rung that it has not reached"
    ranked = sorted([*others, score], reverse=True)
    return score >= ranked[max(1, len(ranked) // FACTOR) - 1]
