"""PairTune: stage 1. Contrastive fine-tuning of the whole encoder through a projector that is thrown away (the paper,
2.1).
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from audioconfit import losses, randomness, training
from audioconfit.batches import Batches
from audioconfit.encoders import Encoder
from audioconfit.mining import miner
from audioconfit.training import Settings


class Projector(nn.Module):
    """One linear layer on the embedding of unit length; the loss brings its output to unit length again."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, projection_dim)

    def forward(self, embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch projection"]:
        projected: Tensor = self.linear(F.normalize(embeddings, dim=1))
        return projected


def train(
    encoder: Encoder,
    batches: Batches,
    settings: Settings,
    *,
    temperature: float = 0.1,
    mining: str = "multi_similarity",
    margin: float = 0.1,
    keep_denominator: bool = False,
    projection_dim: int = 256,
) -> bool:
    """Train the encoder in place so that clips of a class meet and others part; False where `report` asked to stop.

    The seed also draws the projector.
    """
    with randomness.private(settings.seed, 0, torch.device("cpu")):
        projector = Projector(encoder.dim, projection_dim)
    loss = partial(
        losses.supcon,
        temperature=temperature,
        miner=miner(mining, margin=margin),
        keep_denominator=keep_denominator,
    )
    return training.fit(encoder, projector, loss, batches, settings)
