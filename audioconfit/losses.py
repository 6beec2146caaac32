"""Losses: SupCon over mined pairs, and cross-entropy; both exact over several ranks.

Every function here returns this rank's share of the loss of the whole batch: the shares of all ranks add up to what
one worker would compute, and so do their gradients. Nothing here runs under autocast: bf16 would put the gradient of
SupCon 6 to 8 per cent off.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit import mining, ranks
from audioconfit.errors import InputError
from audioconfit.mining import Miner


def supcon(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"],
    *,
    temperature: float = 0.1,
    miner: Miner = mining.none,
    keep_denominator: bool = False,
) -> Float[Tensor, ""]:
    """The supervised contrastive loss "L_out" (Khosla et al. 2020, equation 2) on cosine similarity, over the rows of
    all ranks.

    Mean over anchors i of  -1/|P(i)| * sum over p in P(i) of log(exp(z_i.z_p / t) / sum over a in A(i) of exp(z_i.z_a
    / t)), where P(i) and A(i) hold the pairs that `miner` keeps; with `keep_denominator` it chooses P(i) alone and
    A(i) is every other row. An anchor without a positive has no term and is not counted in the mean; a batch without
    any pair is 0 with zero gradient. Rows with several labels (multi-hot) weigh each positive by the Jaccard index of
    the two label sets instead of 1.
    """
    if temperature <= 0:
        raise InputError(f"The temperature must be positive, not {temperature}.")
    embeddings = F.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1)
    similarity = embeddings @ ranks.gather(embeddings).T
    affinity = mining.affinity(labels, ranks.gather(labels)).to(similarity.dtype)
    every = mining.candidates(affinity, first=ranks.first_row(len(labels)))
    pairs = miner(similarity.detach(), every)
    compared = every.positives | every.negatives if keep_denominator else pairs.positives | pairs.negatives

    logits = similarity / temperature
    # Not -inf: for an anchor that mining left without pairs, logsumexp's backward would pass through nan.
    denominator = logits.masked_fill(~compared, torch.finfo(logits.dtype).min).logsumexp(1, keepdim=True)
    weights = affinity * pairs.positives
    positives = weights.sum(1)
    # By 1 where there are none: by next to nothing, the gradient of a loss scaled for fp16 would become inf, and nan.
    terms = (weights * (denominator - logits)).sum(1) / positives.masked_fill(positives == 0, 1)
    anchors = ranks.total(pairs.positives.any(1).sum())
    return terms.sum() / anchors.clamp(min=1)


def cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Softmax cross-entropy, or the mean over classes of the sigmoid's for multi-hot labels; the mean is over all
    ranks' rows.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if labels.ndim == 1:
        terms = F.cross_entropy(logits, labels, reduction="sum")
    else:
        terms = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1).sum()
    return terms / ranks.total(torch.full((), len(logits), device=logits.device))
