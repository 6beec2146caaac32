"""Samplers: what proposes the next point of a cell's search. Optuna's own but for the grid; none needs a network."""

import itertools
import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from sweeps.request.cells import Space

GRID = "grid"


class KnownSpace(TPESampler):
    """TPE with a given space: Optuna's own derives it from all earlier trials at every ask.

    It weighs every trial: 4 ms of CPU a proposal after 50, 11 ms after 600. A window (the best 100 and the newest 100
    as a study of their own, the only public way) took 33 ms to save that, at a regret within the spread of five seeds.
    """

    def __init__(self, space: dict[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self.space = {name: distribution for name, distribution in space.items() if not distribution.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space


class OnePoint(BaseSampler):
    """Gives one point, whatever the trials so far."""

    def __init__(self, point: dict[str, Any]) -> None:
        self.point = point

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.point[param_name]


def of(name: str, space: dict[str, BaseDistribution], *, seed: int, startup_trials: int) -> BaseSampler:
    """The sampler `tpe`, `gp` or `random`; the first two draw `startup_trials` at random before they learn."""
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup_trials)
    if name == "random":
        return RandomSampler(seed)
    assert name == "tpe", name
    return KnownSpace(space, seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True)


def points(space: Space) -> int:
    """How many points the grid of a space has."""
    return len(_grid(space))


def grid(space: Space, *, number: int, seed: int) -> BaseSampler:
    """The point of that number, in an order that `seed` draws. Not Optuna's GridSampler: it ends the loop of
    `study.optimize`, and fails where there is none.
    """
    order = _grid(space)
    random.Random(seed).shuffle(order)
    return OnePoint(order[number % len(order)])


def _grid(space: Space) -> list[dict[str, Any]]:
    """Every combination; of ranges a few values."""
    values = space.values
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
