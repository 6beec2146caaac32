"""FineTune: the baseline. End to end with cross-entropy, no layer frozen.

Both methods are judged by the same probe on the same features; FineTune's own linear head, by which the paper may have
judged it, is scored beside that.
"""

import torch
from torch import nn

from audioconfit import losses, randomness, training
from audioconfit.batches import Batches
from audioconfit.encoders import Encoder
from audioconfit.training import Settings


def new_head(encoder: Encoder, classes: int, *, seed: int) -> nn.Linear:
    """The head before training, drawn by the seed."""
    with randomness.private(seed, 0, torch.device("cpu")):
        return nn.Linear(encoder.dim, classes)


def train(encoder: Encoder, batches: Batches, settings: Settings, *, head: nn.Linear | None = None) -> nn.Linear | None:
    """Train the encoder in place to tell the classes apart by a linear head: the one that is given, or a new one.

    Returns the head, or None where `report` asked to stop.
    """
    head = head or new_head(encoder, batches.class_count, seed=settings.seed)
    return head if training.fit(encoder, head, losses.cross_entropy, batches, settings) else None
