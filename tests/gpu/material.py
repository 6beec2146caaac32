"""What the GPU tests and the benchmark train on: synthetic clips, and encoders of any size with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from audioconfit import randomness
from audioconfit.audio import SAMPLE_RATE
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.training import Settings

# The shapes of the published models; transformers' defaults are the base ones.
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
FULL_SIZE: dict[str, tuple[type, type, dict[str, Any]]] = {
    "wav2vec2-base": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, {}),
    "hubert-base": (transformers.HubertConfig, transformers.HubertModel, {}),
    "wavlm-base": (transformers.WavLMConfig, transformers.WavLMModel, {}),
    "wav2vec2-large": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, LARGE),
}
SMALL = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192}

Waveforms = dict[str, np.ndarray]


def full_size(name: str, device: torch.device | str, *, seed: int = 0, **changes: Any) -> Encoder:
    """A published architecture with random weights, drawn on the device, dropout as published."""
    config, model, shape = FULL_SIZE[name]
    device = torch.device(device)
    with randomness.private(seed, 0, device), device:
        return Encoder(name, model(config(**shape | changes))).to(device)


def clips(
    *, classes: int = 4, each: int = 6, seconds: tuple[float, float] = (0.6, 0.6), seed: int = 0
) -> tuple[Waveforms, list[Clip], tuple[str, ...]]:
    """Noisy tones, one pitch per class, each as long as drawn between the two bounds."""
    draw = np.random.default_rng(seed)
    waveforms, found = {}, []
    names = tuple(f"pitch-{number}" for number in range(classes))
    for number, name in enumerate(names):
        for take in range(each):
            time = np.arange(round(draw.uniform(*seconds) * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * 150 * 1.5**number * time) + 0.3 * draw.standard_normal(len(time), np.float32)
            key = f"{name}/{take}"
            waveforms[key] = (6000 * tone).astype(np.int16)
            found.append(Clip(key=key, path=Path(f"{key}.wav"), labels=(name,)))
    return waveforms, found, names


def batches(device: torch.device | str, *, seconds: tuple[float, float] = (0.6, 0.6), **settings: Any) -> Batches:
    """Balanced batches of such clips: 3 steps an epoch of 8 chunks of half a second, unless `settings` say else."""
    waveforms, found, names = clips(seconds=seconds)
    usual = {"batch_size": 8, "chunk_seconds": 0.5, "seed": 0}
    return Batches(waveforms, found, names, device=device, **usual | settings)


def gradient(modules: nn.Module) -> Tensor:
    """All of it, as one vector on the CPU in float64."""
    parts = [parameter.grad.flatten() for parameter in modules.parameters() if parameter.grad is not None]
    return torch.cat(parts).double().cpu()


def weights(module: nn.Module) -> Tensor:
    """All of them, as one vector on the CPU."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).cpu()


def shift(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def told(train: Callable[..., bool], *positional: Any, **settings: Any) -> list[float]:
    """The losses of the epochs of a training run."""
    losses: list[float] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        losses.extend([metrics["loss"]] if metrics else [])
        return True

    assert train(*positional, Settings(report=report, **settings))
    return losses
