"""Mining: which pairs of a batch a loss looks at. Similarities and candidate pairs in, the hard ones among them out.

An anchor is a row of the similarity matrix; it is compared with every row of the batch, over all ranks. A miner is a
function `(similarity, pairs) -> Pairs` that only ever removes pairs, so miners know nothing of labels, ranks or
gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audioconfit.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """For each anchor, the rows that should be near it and the rows that should be far from it. No anchor is paired
    with itself.
    """

    positives: Bool[Tensor, "anchors rows"]
    negatives: Bool[Tensor, "anchors rows"]


Miner = Callable[[Float[Tensor, "anchors rows"], Pairs], Pairs]


def affinity(
    anchors: Int[Tensor, "anchors"] | Float[Tensor, "anchors classes"],
    rows: Int[Tensor, "rows"] | Float[Tensor, "rows classes"],
) -> Float[Tensor, "anchors rows"]:
    """How much two clips are of one kind: the Jaccard index of their label sets, |A n B| / |A u B|; for single labels
    1 or 0.

    Two clips without any label have affinity 0: nothing says that they belong together.
    """
    if anchors.ndim == 1:
        return (anchors[:, None] == rows[None, :]).to(torch.float32)
    anchors, rows = anchors.to(torch.float32), rows.to(torch.float32)
    shared = anchors @ rows.T
    either = anchors.sum(1)[:, None] + rows.sum(1)[None, :] - shared
    return shared / either.clamp(min=1)


def candidates(affinity: Float[Tensor, "anchors rows"], *, first: int = 0) -> Pairs:
    """Every pair of the batch: rows that share a label are positives, the others negatives. Anchor i is row `first +
    i`.
    """
    anchors, rows = (torch.arange(size, device=affinity.device) for size in affinity.shape)
    itself = anchors[:, None] + first == rows  # setting the diagonal of a mask would wait for the GPU
    return Pairs(positives=(affinity > 0) & ~itself, negatives=(affinity == 0) & ~itself)


def multi_similarity(similarity: Float[Tensor, "anchors rows"], pairs: Pairs, *, margin: float = 0.1) -> Pairs:
    """Pairs that violate the margin against the anchor's hardest opposite (Wang et al. 2019, equations 10 and 11).

    Keeps negative j where S_ij + margin > min over positives of S_i, and positive j where S_ij - margin < max over
    negatives of S_i. An anchor that lacks positives or negatives keeps nothing.
    """
    nearest_negative, farthest_positive = _hardest(similarity, pairs)
    return Pairs(
        positives=pairs.positives & (similarity - margin < nearest_negative),
        negatives=pairs.negatives & (similarity + margin > farthest_positive),
    )


def hardest(similarity: Float[Tensor, "anchors rows"], pairs: Pairs) -> Pairs:
    """The one least similar positive and the one most similar negative of each anchor (the paper, section 2.1)."""
    positive = similarity.masked_fill(~pairs.positives, torch.inf).argmin(1, keepdim=True)
    negative = similarity.masked_fill(~pairs.negatives, -torch.inf).argmax(1, keepdim=True)
    chosen = torch.zeros_like(pairs.positives)
    return Pairs(
        positives=chosen.scatter(1, positive, True) & pairs.positives,
        negatives=chosen.scatter(1, negative, True) & pairs.negatives,
    )


def none(similarity: Float[Tensor, "anchors rows"], pairs: Pairs) -> Pairs:
    """Every pair."""
    return pairs


MINERS: dict[str, Callable[..., Pairs]] = {"multi_similarity": multi_similarity, "hardest": hardest, "none": none}


def miner(kind: str, *, margin: float = 0.1) -> Miner:
    """The miner of this name, with its margin in cosine similarity where it has one."""
    if kind not in MINERS:
        raise InputError(f"Unknown mining {kind!r}; choose one of {', '.join(sorted(MINERS))}.")
    return partial(multi_similarity, margin=margin) if kind == "multi_similarity" else MINERS[kind]


def _hardest(similarity: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Per anchor, the similarity of its nearest negative (-inf without any) and of its farthest positive (+inf
    without any).
    """
    nearest_negative = similarity.masked_fill(~pairs.negatives, -torch.inf).amax(1, keepdim=True)
    farthest_positive = similarity.masked_fill(~pairs.positives, torch.inf).amin(1, keepdim=True)
    return nearest_negative, farthest_positive
