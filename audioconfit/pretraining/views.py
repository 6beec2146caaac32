"""Views: what a step listens to, a pure function of (seed, step): two pieces of each of its invented utterances."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from audioconfit.pretraining import rooms, speech
from audioconfit.pretraining.language import Language
from audioconfit.pretraining.speech import Manner, Utterance, Voice

CLIP = 24_000  # samples of one view: 1.5 s
UTTERANCE_SECONDS = 3.0
ROWS = 16  # utterances of a step, with two views each
LANGUAGES = 300
# Utterances that a step draws from, and how many of them are new: each is heard about four times, never alike.
AROUND, NEW = 128, 4

FIELD, HOP = 880, 320  # samples: what a frame of the encoder sees, and from one frame to the next
MASKED_START, MASKED_SPAN = 0.065, 8  # of frames: how many begin a hidden stretch, and its length

# The streams of random numbers, by what they are for.
LANGUAGE, SPEECH, STEP, START, HELD_OUT = range(5)


@dataclass(frozen=True)
class Views:
    """Two views of each utterance: the first half of the rows, and in the same order the second."""

    sound: Float[Tensor, "rows samples"]  # as recorded in some room
    clean: Float[Tensor, "rows samples"]
    pitch: Float[Tensor, "rows frames"]  # Hz; 0 where nothing is voiced
    making: Float[Tensor, "rows numbers"]
    hidden: Bool[Tensor, "rows frames"]


def generator(seed: int, stream: int, number: int = 0) -> Generator:
    """Where all random numbers come from."""
    return np.random.default_rng((seed, stream, number))


@lru_cache(LANGUAGES)
def language(seed: int, number: int) -> Language:
    """One of the invented languages."""
    return Language.drawn(generator(seed, LANGUAGE, number))


@lru_cache(2 * AROUND)
def utterance(seed: int, number: int) -> Utterance:
    """One of the endless utterances, each by another speaker."""
    rng = generator(seed, SPEECH, number)
    spoken = language(seed, int(rng.integers(LANGUAGES)))
    return speech.utter(spoken, Voice.drawn(rng), Manner.drawn(rng), UTTERANCE_SECONDS, rng)


def at(seed: int, step: int) -> Views:
    """What step number `step` learns from."""
    rng = generator(seed, STEP, step)
    chosen = NEW * step + rng.choice(AROUND, ROWS, replace=False)
    utterances = [utterance(seed, int(number)) for number in (*chosen, *chosen)]
    starts = rng.integers(0, len(utterances[0].pitch) - CLIP // speech.STEP + 1, len(utterances))
    pairs = list(zip(utterances, starts, strict=True))
    clean = np.stack([heard.sound[speech.STEP * start :][:CLIP] for heard, start in pairs])
    pitch = np.stack([heard.pitch[start:][: CLIP // speech.STEP] for heard, start in pairs])
    making = np.stack([numbers_of(heard.voice, heard.manner) for heard in utterances])
    # The second views are heard whole, as clips are when the weights are used.
    frames = (CLIP - FIELD) // HOP + 1
    begins, hidden = rng.random((ROWS, frames)) < MASKED_START, np.zeros((2 * ROWS, frames), dtype=bool)
    for shift in range(MASKED_SPAN):
        hidden[:ROWS, shift:] |= begins[:, : frames - shift]
    return Views(
        torch.from_numpy(rooms.recorded(clean, rng)),
        torch.from_numpy(clean),
        torch.from_numpy(pitch[:, 5::4][:, :frames].astype(np.float32)),
        torch.from_numpy(making.astype(np.float32)),
        torch.from_numpy(hidden),
    )


def numbers_of(voice: Voice, manner: Manner) -> Float[ndarray, " numbers"]:
    """How an utterance was made, in the units in which it is heard: octaves, decades, decibels."""
    return np.array(
        [
            math.log2(voice.pitch) + manner.pitch / 12,
            manner.pitch,
            math.log2(voice.tract),
            math.log2(voice.bandwidth),
            voice.tilt - 4 * manner.effort,
            math.log10(voice.breath + manner.breath),
            math.log10(voice.jitter),
            voice.shimmer,
            manner.effort,
            math.log2(manner.range),
            manner.slope,
            math.log2(manner.tempo),
            manner.clarity,
            manner.dynamics,
            manner.tremor,
            manner.creak,
        ]
    )
