"""Held-out tasks: what the weights are worth on generated speakers that no pre-training heard."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.random import Generator
from torch import Tensor

from audioconfit import probe
from audioconfit.features import Features
from audioconfit.pretraining import rooms, speech
from audioconfit.pretraining.language import Language, Syllable
from audioconfit.pretraining.speech import Manner, Voice
from audioconfit.pretraining.targets import log_mel
from audioconfit.pretraining.views import CLIP, HELD_OUT, generator


@dataclass(frozen=True)
class Task:
    """Clips of generated speakers that no pre-training heard; the last part of them is read as test."""

    name: str
    sounds: Float[Tensor, "clips samples"]
    labels: Int[Tensor, "clips"]
    classes: tuple[str, ...]
    parts: tuple[int, int]  # where validation begins, and where test does


def tasks(seed: int = 0) -> list[Task]:
    """Manners (8) and words (12) across speakers, and speakers (24) across words and manners."""
    rng = generator(seed, HELD_OUT)
    spoken = Language.drawn(rng)
    manners, words = [Manner.drawn(rng) for _ in range(8)], spoken.words[:12]
    speakers = [Voice.drawn(rng) for _ in range(40)]
    usual = Manner()
    return [
        _task(
            "manners", [[(spoken.words[rng.integers(40)] * 3, who, how) for how in manners] for who in speakers], rng
        ),
        _task("words", [[(word, who, usual) for word in words] for who in speakers], rng),
        _task(
            "speakers",
            [[(spoken.words[rng.integers(40)] * 3, who, usual) for who in speakers[:24]] for _ in range(12)],
            rng,
        ),
    ]


Said = tuple[tuple[Syllable, ...], Voice, Manner]


def _task(name: str, table: list[list[Said]], rng: Generator) -> Task:
    """A row of the table holds a clip of each class; half of the rows train, a sixth validate."""
    sounds = np.zeros((len(table) * len(table[0]), CLIP), dtype=np.float32)
    for row, (syllables, voice, manner) in zip(sounds, [cell for line in table for cell in line], strict=True):
        said = speech.say(list(syllables), voice, manner, rng).sound[:CLIP]
        row[(start := (CLIP - len(said)) // 2) : start + len(said)] = said
    count = len(table[0])
    labels = torch.arange(count).repeat(len(table))
    parts = len(table) // 2 * count, len(table) * 2 // 3 * count
    return Task(name, torch.from_numpy(rooms.recorded(sounds, rng)), labels, tuple(map(str, range(count))), parts)


Embed = Callable[[Float[Tensor, "clips samples"]], Float[Tensor, "clips dim"]]


def accuracy(task: Task, embed: Embed) -> float:
    """Of the linear probe on the embeddings, on the task's test clips."""
    with torch.inference_mode():
        embedded = torch.cat([embed(sounds) for sounds in task.sounds.split(32)])
    cuts = (0, *task.parts, len(embedded))
    train, valid, test = (
        Features(embedded[start:end], tuple(map(str, range(start, end))), task.labels[start:end])
        for start, end in pairwise(cuts)
    )
    linear = probe.fit(train, valid, classes=task.classes, lr=1e-2)
    return (linear.logits(test.embeddings).argmax(dim=1) == test.labels).float().mean().item()


def log_mel_statistics(sounds: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips 80"]:
    """The embedding that needs no network: mean and deviation of each log-mel band."""
    bands = log_mel(sounds)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1)], dim=1)
