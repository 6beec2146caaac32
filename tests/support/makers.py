"""Makers of small things that several test files need: recordings on disk, cells, trials."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audioconfit.recipe import Recipe
from sweeps.identity import Identity
from sweeps.request.cells import Cell, Space

RATE = 16_000
SPACE = Space(batch_sizes=(8, 16), chunk_seconds=(0.25, 0.5), probe_lr=(1e-3, 1e-1))
IDENTITY = Identity("try", "0123456789ab")


def tones(folder: Path, *, classes: int = 3, clips: int = 8, seconds: float = 0.5, noise: float = 0.1) -> Path:
    """A folder per class; the clips of a class are noisy tones of one pitch."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    for number in range(classes):
        for take in range(clips):
            tone = np.sin(2 * np.pi * 200 * 2**number * time) + noise * rng.standard_normal(len(time))
            path = folder / f"pitch-{number}" / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * tone / max(1.0, 3 * noise), RATE)
    return folder


def recipe(**changes: Any) -> Recipe:
    """A recipe that runs nowhere: for what only reads its numbers."""
    return Recipe(dataset="tones", fingerprint="f", backbone="wav2vec2-random", epochs=4).model_copy(update=changes)


def cell(**changes: Any) -> Cell:
    """A cell of `recipe`."""
    return Cell(base=recipe(**changes), space=SPACE, prepared=Path("nowhere"))
