"""FineTune: the baseline. End to end with cross-entropy, no layer frozen; its linear head is thrown away like
PairTune's projector, so that both methods are judged by the same probe on the same features.
"""

from typing import Unpack

import torch
from torch import nn

from audioconfit import losses, randomness, training
from audioconfit.batches import Batches
from audioconfit.encoders import Encoder


def train(encoder: Encoder, batches: Batches, *, seed: int, **loop: Unpack[training.Settings]) -> bool:
    """Train the encoder in place to tell the classes apart by a linear head; False where `report` asked to stop.

    `loop` is what `training.fit` takes. `seed` also draws the head.
    """
    with randomness.private(seed, 0, torch.device("cpu")):
        head = nn.Linear(encoder.dim, batches.class_count)
    return training.fit(encoder, head, losses.cross_entropy, batches, seed=seed, **loop)
