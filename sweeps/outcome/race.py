"""The race: the best recipes of a task on further inner folds, because one validation side may favour one of them by
chance. After each fold those that are behind the leader beyond doubt drop out; the best mean over the folds wins.

Taking the cheapest of those that cannot be told apart was tried and lost: such choices were hardly better than the
validation side's (tests/benchmarks/README.md).
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audioconfit import bootstrap, files, predictions, scores
from audioconfit.bootstrap import Difference
from audioconfit.recipe import Recipe
from sweeps.outcome import runs
from sweeps.outcome.runs import Run
from sweeps.request.cells import Cell
from sweeps.trial.assignment import Assignment

RECORD = "race.json"
# A validation side whose accuracy is known to two points either way needs no further folds (TIMIT, MSWC).
LARGE_ENOUGH = 0.02


@dataclass
class Finalist:
    """One recipe of a cell, by the values that the search found, the validation score there, and its cost in seconds of
    audio. `folds`: its assignments so far, one per inner fold, all done.
    """

    cell: Cell
    params: Mapping[str, Any]
    valid: float
    cost: float
    folds: list[Assignment] = field(default_factory=list)
    out: str | None = None  # why it dropped out

    @property
    def recipe(self) -> Recipe:
        return self.cell.recipe(dict(self.params))

    @property
    def scores(self) -> list[float]:
        """By inner fold, higher being better."""
        return [fold.read_metrics()["valid_score"] for fold in self.folds]

    @property
    def mean(self) -> float:
        """Over the folds that it has run."""
        return statistics.fmean(self.scores)

    def against(self, other: "Finalist", metric: str) -> Difference:
        """How much better it is than the other, on the clips of the folds that both have run."""
        pairs = [
            predictions.common(ours.predictions("valid"), theirs.predictions("valid"))
            for ours, theirs in zip(self.folds, other.folds, strict=False)
        ]
        ours, theirs = (predictions.join(side) for side in zip(*pairs, strict=True))
        return bootstrap.difference(metric, ours, theirs)


@dataclass
class Race:
    """The race of one task. `folds`: how many inner folds its split has; 1 is none beyond the validation side."""

    finalists: list[Finalist]
    folds: int
    metric: str
    always: bool = False  # race on though the validation side is large enough
    begun: int = 0  # folds that were handed out

    @property
    def running(self) -> list[Finalist]:
        return [one for one in self.finalists if one.out is None]

    @property
    def is_decided(self) -> bool:
        """No fold is left, or nothing is left to tell apart."""
        return self.begun >= self.folds or (self.begun > 0 and (len(self.running) < 2 or self._is_large_enough()))

    def next_fold(self, root: Path, micro_batch: int | None) -> list[Run]:
        """The next inner fold of everyone who is in the race; nothing once it is decided."""
        if self.is_decided:
            return []
        work = [(one.cell, self._assignment(one, self.begun, root, micro_batch)) for one in self.running]
        self.begun += 1
        return work

    def settle(self, root: Path, micro_batch: int | None, failures: Mapping[str, str]) -> None:
        """Reads the fold that was handed out last, and drops those that failed or are behind beyond doubt."""
        for one in self.running:
            assignment = self._assignment(one, self.begun - 1, root, micro_batch)
            if assignment.is_done:
                one.folds.append(assignment)
            else:
                one.out = failures.get(assignment.key, "It has no result.")
        if not self.running:
            return
        leader = self.standing()[0]
        if self.begun == 1 and _is_one_speaker(leader):
            return
        for one in self.running:
            if one is not leader:
                lead = leader.against(one, self.metric)
                if lead.low > 0:
                    one.out = f"At inner fold {self.begun} the leader is ahead by {lead.low:.4f} or more."

    def standing(self) -> list[Finalist]:
        """Best first: who stayed longer, then by the mean over the folds, of equals the cheaper."""
        ran = [one for one in self.finalists if one.folds]
        return sorted(ran, key=lambda one: (-len(one.folds), -one.mean, one.cost, one.cell.name))

    def best_of(self, cell: str) -> Finalist | None:
        """The finalist of the cell of that name that came furthest."""
        return next((one for one in self.standing() if one.cell.name == cell), None)

    def _assignment(self, one: Finalist, fold: int, root: Path, micro_batch: int | None) -> Assignment:
        recipe = one.recipe.model_copy(update={"inner_fold": fold})
        return runs.FINALIST.assignment(one.cell, recipe, root, micro_batch)

    def _is_large_enough(self) -> bool:
        leader = self.standing()[0]
        if self.always or _is_one_speaker(leader):
            return False
        metrics = leader.folds[0].read_metrics()
        return metrics["valid_accuracy_high"] - metrics["valid_accuracy_low"] <= 2 * LARGE_ENOUGH


def finalists(cells: Sequence[Sequence[Finalist]], *, count: int) -> list[Finalist]:
    """Of each cell's recipes, best first: the best of every cell, then the best of the rest until there are `count`,
    and all of frozen backbones, whose folds cost no training. Of recipes that share a stage 1 and a layer only the
    best: they differ in the probe's rate alone.
    """
    ranked = [_distinct(each) for each in cells]
    chosen = [each[0] for each in ranked if each]
    rest = sorted(
        (one for each in ranked for one in each[1:]),
        key=lambda one: (-one.valid, one.cost, one.cell.name),
    )
    dear = [one for one in rest if one.cell.base.method != "frozen"][: max(0, count - len(chosen))]
    return chosen + [one for one in rest if one in dear or one.cell.base.method == "frozen"]


def _distinct(ranked: Sequence[Finalist]) -> list[Finalist]:
    """The first of each stage 1 and layer, in their order."""
    found: dict[tuple[str, int | str], Finalist] = {}
    for one in ranked:
        found.setdefault((one.recipe.stage_key, one.recipe.probe_layer), one)
    return list(found.values())


def _is_one_speaker(one: Finalist) -> bool:
    """Whether the validation side is a single speaker (or source), whose clips do not tell how speakers differ."""
    groups = set(one.folds[0].predictions("valid").groups)
    return len(groups) == 1 and None not in groups


def record(folder: Path, races: Mapping[str, Race]) -> None:
    """Stores how the races went, for readers of a finished sweep."""
    told = {
        dataset: {
            "metric": race.metric,
            "folds": race.folds,
            "finalists": [
                {"cell": one.cell.name, **one.params, "scores": one.scores, "cost": one.cost, "out": one.out}
                for one in race.standing()
            ],
        }
        for dataset, race in races.items()
    }
    files.write(folder / RECORD, json.dumps(told, indent=2))


def explain(race: Race, winner: Finalist) -> str:
    """How it won, in sentences for the registry and the report."""
    folds = len(winner.folds)
    said = (
        f"{winner.cell.base.backbone} ({winner.cell.base.method}) leads the race of {len(race.finalists)} finalists on "
        f"{winner.cell.base.dataset}: mean {scores.title(race.metric)} {_shown(race.metric, winner.mean)} over {folds} "
        f"inner {'folds' if folds > 1 else 'fold'}."
    )
    others = [one for one in race.standing() if one is not winner]
    if not others:
        return said
    second = others[0]
    lead = winner.against(second, race.metric)
    who = f"{second.cell.base.backbone} ({second.cell.base.method})"
    if second.cell.name == winner.cell.name:
        who = f"another recipe of the same cell ({_searched(second.params)})"
    said += (
        f" Runner-up: {who}, {lead.gain:.4f} behind on the same clips (95 per cent: {lead.low:.4f} to {lead.high:.4f})"
    )
    return said + ("." if lead.is_clear else "; they cannot be told apart.")


def _shown(metric: str, score: float) -> str:
    return f"{-score if metric == 'log_loss' else score:.4f}"


def _searched(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if name == "probe_lr" else f"{name} {value}" for name, value in params.items()
    )
