"""Small runs: the smallest thing that trains like an encoder, ramps to train it on, PairTune of it on each rank."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audioconfit import pairtune, ranks
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.training import Settings


class Listener(Encoder):
    """The smallest thing that can be trained like an encoder: waveform statistics through a layer, with dropout."""

    dim = 8

    def __init__(self, seed: int = 0, dropout: float = 0.2) -> None:
        nn.Module.__init__(self)  # no backbone
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(16, self.dim, generator=draw) / 4)
        self.dropout = dropout

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None, *, every_layer: bool = False) -> Tensor:
        spectrum = waveforms[:, :160].unflatten(1, (16, 10)).mean(2) * 10
        return nn.functional.dropout((spectrum @ self.weight).tanh(), self.dropout, self.training)


def batches(**settings: Any) -> Batches:
    """Two classes, a rising and a falling ramp, 20 noisy clips each."""
    draw = np.random.default_rng(0)
    waveforms, clips = {}, []
    for label, slope in (("up", 1), ("down", -1)):
        for number in range(20):
            ramp = slope * np.linspace(-3000, 3000, 320) + draw.normal(0, 3000, 320)
            waveforms[f"{label}{number}"] = ramp.astype(np.int16)
            clips.append(Clip(key=f"{label}{number}", path=Path(label), labels=(label,)))
    return Batches(waveforms, clips, ("down", "up"), **{"batch_size": 8, "chunk_seconds": 0.01, "seed": 0} | settings)


def weights(encoder: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


def overflowing(encoder: Listener) -> Listener:
    """The same, and the gradient of its first backward pass is no finite number."""
    passes = itertools.count()
    encoder.weight.register_hook(lambda gradient: gradient * math.inf if next(passes) == 0 else gradient)
    return encoder


def tuned(
    checkpoint: Path,
    *,
    answers: Callable[[int], bool] = lambda told: True,
    dropout: float = 0.0,
    overflows: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """PairTune on this rank: its weights, what it was told, whether it ran to the end, and fp16's scale then."""
    encoder, told = Listener(dropout=dropout), []
    if overflows:
        overflowing(encoder)

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        told.append((epoch, metrics))
        return answers(len(told))

    finished = pairtune.train(
        encoder,
        batches(rank=ranks.rank(), world=ranks.world(), batch_size=10),
        Settings(lr=1e-2, epochs=4, seed=0, report=report, checkpoint=checkpoint, **settings),
    )
    scale = torch.load(checkpoint, weights_only=True)["scaler"]
    return {"weights": weights(encoder), "told": told, "finished": finished, "scale": scale}


def store_tuned(settings: dict[str, Any]) -> None:
    """One Ray Train worker: its share of the run, and what it found into a file of `folder`."""
    found = tuned(Path(settings["folder"]) / "run.pt")
    torch.save(found, Path(settings["folder"]) / f"{ranks.rank()}.found")
