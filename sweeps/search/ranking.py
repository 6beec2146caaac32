"""Ranking the trials of one cell: by validation score, then by cost."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState


def by_score(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, best validation score first; of equals the cheapest, then the first asked."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.user_attrs["cost"], trial.number))


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The first of `by_score`; None if no trial completed."""
    return next(iter(by_score(trials)), None)
