"""Tiny encoders with random weights, noise to put through them, and pairs of tones to train them on."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audioconfit import encoders, pairtune
from audioconfit.audio import SAMPLE_RATE
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder, weights
from audioconfit.training import Settings

ARCHITECTURES = ("wav2vec2", "hubert", "wavlm")
# The large models of each family: layer norm in every convolution, and before each block.
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def encoder_of(architecture: str, **config: Any) -> Encoder:
    """A tiny encoder whose relative position bias, if it has one, is large enough to matter."""
    model = weights.random(architecture, **config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_attn_embed" in name:
                parameter.mul_(50)
    return encoders.around(architecture, model)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shift(embeddings: Tensor, reference: Tensor) -> float:
    """The largest relative distance of a row from its reference."""
    return float(((embeddings - reference).norm(dim=1) / reference.norm(dim=1)).max().detach())


HERTZ = {"low": 200, "middle": 400, "high": 800}


def tones(seconds: float = 0.25, **settings: Any) -> Batches:
    """Eight noisy clips of each of three pitches; one of each is shorter than the others."""
    draw = np.random.default_rng(0)
    waveforms, clips = {}, []
    for label, hertz in HERTZ.items():
        for number in range(8):
            time = np.arange(round(seconds * SAMPLE_RATE * (0.7 if number == 0 else 1))) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * hertz * time + draw.uniform(0, 6)) + draw.normal(0, 0.5, len(time))
            waveforms[f"{label}{number}"] = (6000 * tone).astype(np.int16)
            clips.append(Clip(key=f"{label}{number}", path=Path(label), labels=(label,)))
    return Batches(waveforms, clips, tuple(HERTZ), **{"batch_size": 12, "chunk_seconds": 0.2, "seed": 0} | settings)


def losses_of(
    encoder: encoders.Encoder, method: Any = pairtune, batches: Batches | None = None, **settings: Any
) -> list[float]:
    """The loss of each epoch."""
    told: list[float] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        told.extend(metrics[name] for name in ["loss"] if name in metrics)
        return True

    settings = {"lr": 3e-3, "epochs": 15, "seed": 0, "report": report} | settings
    loop = {field.name for field in fields(Settings)}
    own = {name: value for name, value in settings.items() if name not in loop}
    shared = Settings(**{name: value for name, value in settings.items() if name in loop})
    assert method.train(encoder, batches or tones(), shared, **own)
    return told
