"""Tiny classifiers: a random encoder with a random probe on it, and noise for it to name."""

from pathlib import Path
from typing import Any

import soundfile
import tiny_encoders
import torch

from audioconfit.classifier import Classifier
from audioconfit.probe import Probe

CLASSES = ("crow", "wren", 'label|of "an" owl')


def made(
    architecture: str = "wav2vec2", *, several: bool = False, chunk_seconds: float = 1.0, **config: Any
) -> Classifier:
    """A tiny random encoder and a random probe, standardised by what it gives for noise, that is sure of nothing."""
    encoder = tiny_encoders.encoder_of(architecture, **config)
    draw = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    with torch.no_grad():
        heard = encoder(tiny_encoders.noise(8, 8000, seed=2))
    probe = Probe(
        CLASSES,
        weight=0.2 * drawn(len(CLASSES), encoder.dim),
        bias=0.2 * drawn(len(CLASSES)),
        mean=heard.mean(0),
        deviation=heard.std(0),
        thresholds=0.2 * drawn(len(CLASSES)) if several else None,
    )
    return Classifier(encoder, probe, chunk_seconds, CLASSES)


def recording(folder: Path, seconds: float = 0.6, *, seed: int = 0, name: str = "a.wav") -> Path:
    """Noise at 16 kHz, so that whoever reads the file reads the same samples."""
    path = folder / name
    soundfile.write(path, 0.1 * tiny_encoders.noise(round(16_000 * seconds), seed=seed).numpy(), 16_000)
    return path
