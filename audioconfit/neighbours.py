"""Neighbours: the train clips whose frozen features are nearest vote. Local structure beside the linear probe's global;
needs no fit, so that it also gives the early scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit import scores
from audioconfit.features import Features
from audioconfit.probe import Alive, silent

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
BLOCK = 256  # clips whose neighbours are looked for, or whose votes are counted, at a time


@dataclass(frozen=True)
class KnnProbe:
    """The vote of the k train clips of highest cosine similarity: local structure beside the linear probe's global."""

    classes: tuple[str, ...]
    embeddings: Float[Tensor, "train dim"]  # of unit length
    targets: Float[Tensor, "train classes"]  # 0/1
    k: int
    several: bool  # labels per clip
    valid_score: float  # what `k` was chosen by

    def logits(
        self, embeddings: Float[Tensor, "clips dim"], *, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "clips classes"]:
        """Each class' share of the votes, equal ones ordered by similarity; for label sets, above 0 from a half on."""
        (nearest,) = _nearest(embeddings, self.embeddings, (self.k,), device=device)
        return self._counted(nearest, device)

    def score(self, side: Features, *, metric: str | None = None, device: torch.device | str = "cpu") -> float:
        """By `metric`, higher being better. Votes are no probabilities: where it is the log loss, by accuracy."""
        return self._worth(self.logits(side.embeddings, device=device), side, metric)

    def _counted(self, nearest: "Nearest", device: torch.device | str) -> Float[Tensor, "clips classes"]:
        # In blocks: the votes of all clips at once are clips x k x classes numbers.
        targets = self.targets.to(device)
        blocks = zip(nearest.similarity.split(BLOCK), nearest.rows.split(BLOCK), strict=True)
        return torch.cat([self._votes(similarity, targets[rows]).cpu() for similarity, rows in blocks])

    def _votes(self, similarity: Tensor, targets: Tensor) -> Tensor:
        # A similarity lies in [-1, 1]: all together weigh less than half a vote.
        closeness = (targets * (1 + similarity[..., None])).sum(1) / (4 * self.k + 1)
        shares = (targets.sum(1) + closeness) / self.k
        return shares - 0.5 if self.several else shares

    def _worth(self, logits: Float[Tensor, "clips classes"], side: Features, metric: str | None) -> float:
        judged = scores.score(side.labels, logits, self.classes)
        return judged.under("accuracy" if metric == "log_loss" else metric)


def fit(
    train: Features,
    valid: Features,
    *,
    classes: Sequence[str],
    k: int | None = None,
    metric: str | None = None,
    device: torch.device | str = "cpu",
    alive: Alive = silent,
) -> KnnProbe:
    """The vote of `k` neighbours, or of as many of NEIGHBOURS as are best on validation by `metric`, the smaller of
    equals; computed on `device`, handed over on the CPU. `alive` is called after each block of clips.
    """
    several = train.labels.ndim == 2
    targets = train.labels.float() if several else F.one_hot(train.labels, len(classes)).float()
    unit = F.normalize(train.embeddings, dim=1)
    counts = [count for count in (NEIGHBOURS if k is None else (k,)) if count <= len(unit)]
    probes = []
    found = _nearest(valid.embeddings, unit, counts, device=device, alive=alive)
    for count, nearest in zip(counts, found, strict=True):
        probe = KnnProbe(tuple(classes), unit, targets, count, several, valid_score=0.0)
        probes.append(replace(probe, valid_score=probe._worth(probe._counted(nearest, device), valid, metric)))
    return max(probes, key=lambda probe: probe.valid_score)


@dataclass(frozen=True)
class Nearest:
    """The k most similar rows of each clip, the most similar first."""

    similarity: Float[Tensor, "clips k"]
    rows: Int[Tensor, "clips k"]


def _nearest(
    embeddings: Float[Tensor, "clips dim"],
    unit: Float[Tensor, "rows dim"],
    counts: Sequence[int],
    *,
    device: torch.device | str,
    alive: Alive = silent,
) -> list[Nearest]:
    """For each k of `counts`; the similarities are computed once for all of them."""
    found: list[list[tuple[Tensor, Tensor]]] = []
    unit = unit.to(device)
    for block in F.normalize(embeddings, dim=1).split(BLOCK):
        similarity = block.to(device) @ unit.T
        # Not the first k of the most that are asked for: which of equals comes first depends on k.
        found.append([tuple(similarity.topk(k, dim=1)) for k in counts])
        alive()
    return [Nearest(*map(torch.cat, zip(*blocks, strict=True))) for blocks in zip(*found, strict=True)]
