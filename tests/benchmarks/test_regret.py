"""What the race is worth: how much test accuracy a choice loses against the best candidate, on real emotions with test
and validation speakers drawn anew. Ten minutes of one core:
`AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_regret.py`.

Candidates: the three packaged backbones x each layer x two chunk durations, frozen, with the same probe. Each draw has
four test speakers, one validation speaker and five who train; the further inner folds are those of audioconfit.folds.
"""

import json
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import heading
import makers
import pytest
import torch

from audioconfit import encoders, features, files, folds, predictions, pretraining, probe
from audioconfit.audio import Waveforms
from audioconfit.features import Features
from audioconfit.predictions import Predictions
from audioconfit.splits import Split
from sweeps.outcome import race
from sweeps.outcome.race import Finalist, Race
from sweeps.trial.assignment import PREDICTIONS, RESULT, Assignment

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

DRAWS = 20
CHUNKS, LAYERS = (0.5, 2.0), (1, 2, 3)
PROBE_LR = 3e-3


@dataclass(frozen=True)
class Judged:
    """One candidate in one draw: what it says of each inner fold's validation clips, and its test accuracy."""

    said: list[Predictions]
    valid: list[float]
    test: float


Name = tuple[str, int, float]  # backbone, layer, chunk
Draw = Mapping[Name, Judged]


def candidates(waveforms: Waveforms) -> dict[Name, Features]:
    found = {}
    for backbone in pretraining.ARCHITECTURES:
        encoder = encoders.load(backbone)
        layers = list(encoder.model.encoder.layers)
        for layer in LAYERS:
            encoder.model.encoder.layers = torch.nn.ModuleList(layers[:layer])
            for chunk in CHUNKS:
                found[(backbone, layer, chunk)] = features.extract(
                    encoder, waveforms, waveforms.corpus.clips, classes=waveforms.corpus.classes, chunk_seconds=chunk
                )
    return found


def draw(waveforms: Waveforms, seed: int) -> Split:
    speakers = sorted({clip.group for clip in waveforms.corpus.clips if clip.group is not None})
    order = random.Random(seed).sample(speakers, len(speakers))
    sides = (order[5:], order[4:5], order[:4])
    train, valid, test = (tuple(clip for clip in waveforms.corpus.clips if clip.group in side) for side in sides)
    return Split(train, valid, test, waveforms.corpus.classes, "speakers drawn")


def judge(found: Features, split: Split) -> Judged:
    said, valid, test = [], [], 0.0
    for number, fold in enumerate(folds.cut(split).splits):
        sides = features.dealt([found], [fold.train, fold.valid, fold.test])
        linear = probe.fit(sides[0], sides[1], classes=split.classes, lr=PROBE_LR)
        said.append(predictions.of(fold.valid, sides[1].labels, linear.logits(sides[1].embeddings)))
        valid.append(linear.score(sides[1]).accuracy)
        test = linear.score(sides[2]).accuracy if number == 0 else test
    return Judged(said, valid, test)


def by_holdout(judged: Draw) -> Name:
    return max(judged, key=lambda name: judged[name].valid[0])


def raced(judged: Draw, root: Path, *, count: int, method: str) -> tuple[Name, int]:
    """The race's first, by the product's own race on what was judged; and how many further folds it ran."""
    names: dict[tuple[str, int, float], Name] = {}
    cells: dict[str, list[Finalist]] = {}
    for name in sorted(judged, key=lambda name: -judged[name].valid[0]):
        backbone, layer, chunk = name
        cell = makers.cell(backbone=backbone, method=method)
        one = Finalist(cell, {"chunk_seconds": chunk, "seed": layer}, judged[name].valid[0], cost=0.0)
        cells.setdefault(backbone, []).append(one)
        names[(backbone, layer, chunk)] = name
    lanes = Race(race.finalists(list(cells.values()), count=count), 5, "accuracy", always=True)
    ran = 0
    while work := lanes.next_fold(root, None):
        for cell, assignment in work:
            recipe = assignment.recipe
            leave(assignment, judged[(cell.base.backbone, recipe.seed, recipe.chunk_seconds)], recipe.inner_fold)
            ran += recipe.inner_fold > 0
        lanes.settle(root, None, {})
    first = lanes.standing()[0]
    return names[(first.cell.base.backbone, first.params["seed"], first.params["chunk_seconds"])], ran


def leave(assignment: Assignment, judged: Judged, fold: int) -> None:
    assignment.folder.mkdir(parents=True, exist_ok=True)
    judged.said[fold].save(assignment.folder / PREDICTIONS.format(side="valid"))
    numbers = {"valid_score": judged.valid[fold], "valid_accuracy_low": 0.0, "valid_accuracy_high": 1.0}
    files.write(assignment.folder / RESULT, json.dumps({"metrics": numbers}))


def test_what_a_choice_loses(emodb: Waveforms, tmp_path: Path) -> None:
    heading.show(
        f"EmoDB, {DRAWS} draws of four test speakers: test accuracy below the best of the candidates, mean ± se"
    )
    found = candidates(emodb)
    draws = [
        {name: judge(found[name], split) for name in found} for split in (draw(emodb, seed) for seed in range(DRAWS))
    ]
    regrets: dict[str, list[float]] = {"any candidate, on average": []}
    ran: dict[str, int] = {}
    choices: dict[str, Callable[[Draw, Path], tuple[Name, int]]] = {
        "holdout: one validation speaker": lambda judged, root: (by_holdout(judged), 0),
        "race of 4 finalists": lambda judged, root: raced(judged, root, count=4, method="pairtune"),
        "race of 9 finalists": lambda judged, root: raced(judged, root, count=9, method="pairtune"),
        "race of all, as frozen backbones do": lambda judged, root: raced(judged, root, count=4, method="frozen"),
    }
    for number, judged in enumerate(draws):
        best = max(one.test for one in judged.values())
        regrets["any candidate, on average"].append(best - statistics.fmean(one.test for one in judged.values()))
        for words, choose in choices.items():
            chosen, further = choose(judged, tmp_path / f"{number}-{len(words)}")
            regrets.setdefault(words, []).append(best - judged[chosen].test)
            ran[words] = ran.get(words, 0) + further
    for words, lost in regrets.items():
        error = statistics.stdev(lost) / len(lost) ** 0.5
        print(f"{words:40s} {statistics.fmean(lost):.4f} ± {error:.4f}  {ran.get(words, 0) / DRAWS:5.1f} further folds")
    assert statistics.fmean(regrets["race of 4 finalists"]) < statistics.fmean(
        regrets["holdout: one validation speaker"]
    )
