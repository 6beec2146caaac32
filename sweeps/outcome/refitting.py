"""The refit: the champion's recipe once more on train and valid, to be handed over. What must be chosen on clips that
were not learned comes from its folds: those of the race, or the confirmed run's own validation side.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from audioconfit import predictions, probe
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe
from sweeps.outcome.race import Race
from sweeps.outcome.selection import Candidate
from sweeps.trial.assignment import PROBE, Assignment


def recipe(winner: Candidate, race: Race | None = None) -> Recipe:
    """The recipe of the winner's best run on train and valid, with its folds' thresholds and neighbours."""
    best = winner.best_run
    raced = race.best_of(winner.cell) if race else None
    folds = raced.folds if raced else [best.assignment]
    chosen = {"probe_thresholds": _thresholds(folds), "probe_k": _neighbours(folds)}
    return best.recipe.model_copy(update={"refit": True, **chosen})


def _thresholds(folds: Sequence[Assignment]) -> tuple[float, ...] | None:
    """Of label sets, per class the best F1 over the validation clips of all folds; None for single labels."""
    probes = [Probe.load(fold.folder / PROBE) for fold in folds]
    said = [fold.predictions("valid") for fold in folds]
    taken_off = [one.thresholds for one in probes if one.thresholds is not None]
    if not taken_off:
        return None
    logits = torch.cat([one.logits + thresholds for one, thresholds in zip(said, taken_off, strict=True)])
    return tuple(probe.best_thresholds(logits, predictions.join(said).labels).tolist())


def _neighbours(folds: Sequence[Assignment]) -> int | None:
    """The middle of the folds' own numbers; None where they were run before it was kept."""
    counts: list[Any] = [fold.read_result().get("k") for fold in folds]
    return None if None in counts else statistics.median_low(counts)
