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


def train(encoder: Encoder, batches: Batches, settings: Settings) -> nn.Linear | None:
    """Train the encoder in place to tell the classes apart by a linear head, which the seed also draws.

    Returns the head, or None where `report` asked to stop.
    """
    with randomness.private(settings.seed, 0, torch.device("cpu")):
        head = nn.Linear(encoder.dim, batches.class_count)
    return head if training.fit(encoder, head, losses.cross_entropy, batches, settings) else None
