"""Scores: what predictions are worth. Labels and logits in, one frozen dataclass out.

Single labels and label sets are scored by the same arithmetic on 0/1 matrices of clips x classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

RESAMPLES = 10_000


@dataclass(frozen=True)
class Scores:
    """Over `clips` clips; every score lies between 0 and 1.

    Where clips carry several labels, `accuracy` is the share whose label set is exactly right, and there is no
    confusion matrix; where they carry one, micro F1 is the accuracy, and mean average precision is not computed.
    """

    clips: int
    accuracy: float
    accuracy_low: float  # 95 per cent bootstrap interval over clips
    accuracy_high: float
    uar: float  # unweighted average recall, over the classes that occur
    macro_f1: float  # over the classes that occur in labels or predictions
    micro_f1: float
    confusion: tuple[tuple[int, ...], ...] | None  # clips by true class (rows) and predicted class (columns)
    mean_average_precision: float | None  # over the classes that occur

    @property
    def headline(self) -> float:
        """What selection looks at: accuracy, or mean average precision where clips carry several labels."""
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision


def score(
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"],
    logits: Float[Tensor, "clips classes"],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> Scores:
    """What these logits are worth. The largest one is the prediction; for label sets (0/1 rows), each above 0 is.

    `seed` draws the interval's resamples. ValueError: no clips, or logits of another shape than clips x classes.
    """
    labels, logits = labels.cpu(), logits.detach().cpu()
    if len(labels) == 0 or logits.shape != (len(labels), len(classes)):
        raise ValueError(
            f"Scores need a clip or more and logits of shape clips x classes, ({len(labels)}, {len(classes)}), "
            f"not {tuple(logits.shape)}."
        )
    single = labels.ndim == 1
    truth = F.one_hot(labels, len(classes)).bool() if single else labels.bool()
    predicted = F.one_hot(logits.argmax(1), len(classes)).bool() if single else logits > 0

    right = (truth == predicted).all(1)
    low, high = _interval(int(right.sum()), len(right), seed=seed)
    occurs = truth.any(0)
    return Scores(
        clips=len(labels),
        accuracy=right.double().mean().item(),
        accuracy_low=low,
        accuracy_high=high,
        uar=_mean(_recall(truth, predicted)[occurs]),
        macro_f1=_mean(_f1(truth, predicted)[occurs | predicted.any(0)]),
        micro_f1=_f1(truth.reshape(-1, 1), predicted.reshape(-1, 1)).item(),
        confusion=_confusion(truth, predicted) if single else None,
        mean_average_precision=None if single else _mean(average_precision(truth, logits)[occurs]),
    )


def average_precision(
    truth: Bool[Tensor, "clips classes"], logits: Float[Tensor, "clips classes"]
) -> Float[Tensor, "classes"]:
    """Per class, the mean over its clips of the precision at their logit, equal logits in one step; nan without
    clips.
    """
    return torch.stack([_average_precision(*column) for column in zip(truth.T, logits.T, strict=True)])


def _average_precision(truth: Bool[Tensor, "clips"], logits: Float[Tensor, "clips"]) -> Float[Tensor, ""]:
    ordered, order = logits.sort(descending=True, stable=True)
    hits = truth[order].double()
    last_of_equals = torch.searchsorted(-ordered, -ordered, right=True) - 1
    precision = hits.cumsum(0)[last_of_equals] / (last_of_equals + 1)
    return (precision * hits).sum() / hits.sum()


def _interval(right: int, clips: int, *, seed: int) -> tuple[float, float]:
    """Resampling the clips with replacement and counting the right ones is a binomial draw, so it is drawn as one."""
    counts = torch.full((RESAMPLES,), float(clips), dtype=torch.float64)
    chance = torch.full_like(counts, right / clips)
    resampled = torch.binomial(counts, chance, generator=torch.Generator().manual_seed(seed)) / clips
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _confusion(truth: Tensor, predicted: Tensor) -> tuple[tuple[int, ...], ...]:
    counts = truth.double().T @ predicted.double()
    return tuple(tuple(row) for row in counts.long().tolist())


def _recall(truth: Tensor, predicted: Tensor) -> Tensor:
    return (truth & predicted).sum(0).double() / truth.sum(0)


def _f1(truth: Tensor, predicted: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) of each column."""
    return 2 * (truth & predicted).sum(0).double() / (truth.sum(0) + predicted.sum(0))


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0
