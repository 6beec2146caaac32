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
from audioconfit.recipe import Layer
from audioconfit.training import Settings


class Projector(nn.Module):
    """One linear layer on the embedding of unit length; the loss brings its output to unit length again.

    `layer`: which one it reads (0 is what enters the first), their mean, or the mean of `layers` of them by weights
    that are learned, whose softmax starts alike for all, as SUPERB's probes do (Yang et al. 2021).
    """

    def __init__(self, dim: int, projection_dim: int, *, layer: Layer = "last", layers: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, projection_dim)
        self.layer = layer
        self.mix = nn.Parameter(torch.zeros(layers)) if layer == "weighted" else None

    @property
    def every_layer(self) -> bool:
        """Whether it wants the embeddings of every layer, and not of the last alone."""
        return self.layer != "last"

    def forward(self, embeddings: Float[Tensor, "batch *layers dim"]) -> Float[Tensor, "batch projection"]:
        projected: Tensor = self.linear(F.normalize(self._read(embeddings), dim=1))
        return projected

    def _read(self, embeddings: Float[Tensor, "batch *layers dim"]) -> Float[Tensor, "batch dim"]:
        if self.mix is not None:
            return torch.einsum("bld,l->bd", embeddings, self.mix.softmax(0))
        if self.layer == "mean":
            return embeddings.mean(dim=1)
        return embeddings[:, self.layer] if isinstance(self.layer, int) else embeddings


def _count(encoder: Encoder, layer: Layer) -> int:
    return encoder.layer_count if layer == "weighted" else 1


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
    layer: Layer = "last",
) -> bool:
    """Train the encoder in place so that clips of a class meet and others part; False where `report` asked to stop.

    The seed also draws the projector, which reads `layer`: the last one is the paper's; layers above another one stay
    as they are.
    """
    with randomness.private(settings.seed, 0, torch.device("cpu")):
        projector = Projector(encoder.dim, projection_dim, layer=layer, layers=_count(encoder, layer))
    loss = partial(
        losses.supcon,
        temperature=temperature,
        miner=miner(mining, margin=margin),
        keep_denominator=keep_denominator,
    )
    return training.fit(encoder, projector, loss, batches, settings)
