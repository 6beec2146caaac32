"""Importances: how much of the spread of a search's scores each searched setting explains (Optuna's fANOVA)."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

optuna.logging.set_verbosity(optuna.logging.ERROR)

FEWEST_TRIALS = 4  # with fewer, what looks like a setting's doing is chance
MOST_CATEGORIES = 8  # different whole numbers: more come of a range


def of(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """Setting -> share of the spread, the largest first; together 1. `trials`: the settings and the score of each.

    Empty where nothing can be told: fewer than four trials, one score for all, or no setting that varies. Words and a
    few whole numbers count as categories, other numbers by their logarithm, as rates are drawn, unless 0 is among them.
    """
    names = [name for name in (trials[0][0] if trials else {}) if len({params[name] for params, _ in trials}) > 1]
    if len(trials) < FEWEST_TRIALS or not names or len({score for _, score in trials}) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # a second of scikit-learn

    spaces = {name: _space({params[name] for params, _ in trials}) for name in names}
    study = optuna.create_study(direction="maximize")
    for params, score in trials:
        mine = {name: params[name] for name in names}
        study.add_trial(optuna.trial.create_trial(params=mine, distributions=spaces, value=score))
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _space(found: Set[Any]) -> BaseDistribution:
    """What these values were drawn from; a few values that come again are categories."""
    are_numbers = all(isinstance(value, int | float) for value in found)
    values = sorted(found) if are_numbers else sorted(found, key=str)
    if all(isinstance(value, float) for value in values) and len(values) > 3:
        return FloatDistribution(values[0], values[-1], log=values[0] > 0)
    if all(isinstance(value, int) for value in values) and len(values) > MOST_CATEGORIES:
        return IntDistribution(values[0], values[-1], log=values[0] > 0)
    return CategoricalDistribution(list(values))
