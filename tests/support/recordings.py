"""Recordings: tones on disk, and the corpora of them that decoding and preparing are tested with."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32
from numpy import ndarray

from audioconfit.corpora import Clip, Corpus


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> Float32[ndarray, " samples"]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def clip_of(path: Path, **about: Any) -> Clip:
    return Clip(path.name, path, ("tone",), **about)


def corpus_of(folder: Path, count: int = 3, seconds: float = 0.1) -> Corpus:
    """`count` tones of their own frequencies, in two classes."""
    folder.mkdir(exist_ok=True)
    clips = []
    for place in range(count):
        path = folder / f"{place:04d}.wav"
        soundfile.write(path, tone(16_000, seconds, 200.0 + 7 * place), 16_000)
        clips.append(Clip(path.name, path, (("crow", "wren")[place % 2],)))
    return Corpus("birds", tuple(clips))
