"""What a class that is enrolled from five recordings is worth: each emotion of EmoDB left out of training in turn, then
added from five training clips, three draws of them; test accuracy of the other six before and after, and the new one's
recall. Beside it what the same five do among the training clips of a kNN probe. Four minutes of one core:
`AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_enrol_emodb.py`.
"""

import random
import statistics
from dataclasses import replace

import heading
import pytest
import torch
from torch import Tensor

from audioconfit import encoders, features, neighbours, pretraining, probe, splits
from audioconfit.audio import Waveforms
from audioconfit.features import Features

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

ENROLLED, DRAWS, CHUNK, LR = 5, 3, 2.0, 3e-3


def test_an_emotion_from_five_recordings(emodb: Waveforms) -> None:
    heading.show(f"EmoDB, each emotion enrolled from {ENROLLED} clips: old classes before and after, recall of the new")
    split = splits.split(emodb.corpus)
    for backbone in pretraining.ARCHITECTURES:
        encoder, how = encoders.load(backbone), {"classes": split.classes, "chunk_seconds": CHUNK}
        sides = [features.extract(encoder, emodb, clips, **how) for clips in (split.train, split.valid, split.test)]
        found: dict[str, list[tuple[float, float, float]]] = {"enrolled": [], "kNN with the five": []}
        for new in range(len(split.classes)):
            for draw in range(DRAWS):
                for words, scored in tried(sides, split.classes, new, draw).items():
                    found[words].append(scored)
        for words, rows in found.items():
            before, after, recall = (statistics.fmean(column) for column in zip(*rows, strict=True))
            print(f"{backbone:14s} {words:18s} before {before:.3f}, after {after:.3f}, new {recall:.3f}")
        enrolled, voted = ([row[2] for row in rows] for rows in found.values())
        assert statistics.fmean(enrolled) > statistics.fmean(voted)


def tried(
    sides: list[Features], classes: tuple[str, ...], new: int, draw: int
) -> dict[str, tuple[float, float, float]]:
    """By each way: accuracy on the old classes before and after, recall of the new one, which comes last."""
    order = [number for number in range(len(classes)) if number != new] + [new]
    places = torch.tensor([order.index(number) for number in range(len(classes))])
    train, valid, test = (replace(side, labels=places[side.labels]) for side in sides)
    last = len(classes) - 1
    known = [rows(side, side.labels < last) for side in (train, valid)]
    five = random.Random(draw).sample((train.labels == last).nonzero().flatten().tolist(), ENROLLED)
    names = [classes[number] for number in order]
    linear = probe.fit(*known, classes=names[:last], lr=LR)
    grown = linear.with_class(names[last], train.embeddings[five])
    both = replace(
        train,
        embeddings=torch.cat([known[0].embeddings, train.embeddings[five]]),
        labels=torch.cat([known[0].labels, torch.full((ENROLLED,), last)]),
    )
    voting = [neighbours.fit(one, known[1], classes=names[: one.labels.max() + 1]) for one in (known[0], both)]
    said = {
        "enrolled": (linear.logits(test.embeddings), grown.logits(test.embeddings)),
        "kNN with the five": tuple(voter.logits(test.embeddings) for voter in voting),
    }
    old = test.labels < last
    return {
        words: (right(before, test.labels, old), right(after, test.labels, old), right(after, test.labels, ~old))
        for words, (before, after) in said.items()
    }


def rows(side: Features, kept: Tensor) -> Features:
    return replace(side, embeddings=side.embeddings[kept], labels=side.labels[kept])


def right(logits: Tensor, labels: Tensor, clips: Tensor) -> float:
    return float((logits.argmax(1) == labels)[clips].double().mean())
