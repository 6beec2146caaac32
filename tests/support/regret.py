"""Regret: what a choice loses on test against the best candidate, by the product's own race on what candidates said."""

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import makers

from audioconfit import files
from audioconfit.corpora import Clip
from audioconfit.predictions import Predictions
from sweeps.outcome import race
from sweeps.outcome.race import Finalist, Race
from sweeps.trial.assignment import PREDICTIONS, RESULT, Assignment


@dataclass(frozen=True)
class Name:
    """One candidate: its cell, and which of the cell's recipes."""

    backbone: str
    method: str
    chunk: float
    layer: int = 0  # where the layer is part of the choice


@dataclass(frozen=True)
class Judged:
    """One candidate in one draw: what it says of each inner fold's validation clips, and its test accuracy."""

    said: list[Predictions]
    valid: list[float]
    test: float


Draw = Mapping[Name, Judged]


def sides(clips: Sequence[Clip], seed: int) -> dict[str, str]:
    """Who is where, by speaker: four test, one validates, the others train."""
    speakers = sorted({clip.group for clip in clips if clip.group is not None})
    order = random.Random(seed).sample(speakers, len(speakers))
    return dict.fromkeys(order[:4], "test") | {order[4]: "valid"} | dict.fromkeys(order[5:], "train")


def by_holdout(judged: Draw) -> Name:
    """The best on the validation speaker."""
    return max(judged, key=lambda name: judged[name].valid[0])


def raced(judged: Draw, root: Path, *, count: int) -> tuple[Name, int]:
    """The race's first, and how many further folds it ran."""
    names: dict[tuple[str, str, int, float], Name] = {}
    cells: dict[tuple[str, str], list[Finalist]] = {}
    for name in sorted(judged, key=lambda name: -judged[name].valid[0]):
        cell = makers.cell(backbone=name.backbone, method=name.method)
        one = Finalist(cell, {"chunk_seconds": name.chunk, "seed": name.layer}, judged[name].valid[0], cost=0.0)
        cells.setdefault((name.backbone, name.method), []).append(one)
        names[(name.backbone, name.method, name.layer, name.chunk)] = name
    lanes = Race(race.finalists(list(cells.values()), count=count), 5, "accuracy", always=True)
    ran = 0
    while work := lanes.next_fold(root, None):
        for cell, assignment in work:
            recipe = assignment.recipe
            name = names[(cell.base.backbone, cell.base.method, recipe.seed, recipe.chunk_seconds)]
            _leave(assignment, judged[name], recipe.inner_fold)
            ran += recipe.inner_fold > 0
        lanes.settle(root, None, {})
    first = lanes.standing()[0]
    base = first.cell.base
    return names[(base.backbone, base.method, first.params["seed"], first.params["chunk_seconds"])], ran


def _leave(assignment: Assignment, judged: Judged, fold: int) -> None:
    assignment.folder.mkdir(parents=True, exist_ok=True)
    judged.said[fold].save(assignment.folder / PREDICTIONS.format(side="valid"))
    numbers = {"valid_score": judged.valid[fold], "valid_accuracy_low": 0.0, "valid_accuracy_high": 1.0}
    files.write(assignment.folder / RESULT, json.dumps({"metrics": numbers}))


def table(
    draws: Sequence[Draw], choices: Mapping[str, Callable[[Draw, Path], tuple[Name, int]]], folder: Path
) -> dict[str, float]:
    """Prints and returns the mean regret of each way to choose, with its standard error over the draws."""
    lost: dict[str, list[float]] = {"any candidate, on average": []}
    ran: dict[str, int] = {}
    for number, judged in enumerate(draws):
        best = max(one.test for one in judged.values())
        lost["any candidate, on average"].append(best - statistics.fmean(one.test for one in judged.values()))
        for words, choose in choices.items():
            chosen, further = choose(judged, folder / f"{number}-{len(words)}")
            lost.setdefault(words, []).append(best - judged[chosen].test)
            ran[words] = ran.get(words, 0) + further
    for words, each in lost.items():
        error = statistics.stdev(each) / len(each) ** 0.5
        further_folds = ran.get(words, 0) / len(draws)
        print(f"{words:40s} {statistics.fmean(each):.4f} ± {error:.4f}  {further_folds:5.1f} further folds")
    return {words: statistics.fmean(each) for words, each in lost.items()}
