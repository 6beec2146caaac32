"""Bootstrap: how sure a score is, and whether one candidate is better than another on the same clips.

Clips of one speaker, or of one source recording, are right or wrong together: where the groups are known, whole groups
are drawn with replacement (Field and Welsh 2007), else clips. Few groups say too little of how groups differ, and
drawing only them would promise too much: below FEW_GROUPS the clips within them are drawn as well.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from audioconfit import scores
from audioconfit.errors import InputError
from audioconfit.predictions import Predictions

RESAMPLES = 1000
FEW_GROUPS = 5
LEVEL = 0.95
BLOCK = 4_000_000  # numbers of resamples x clips at a time
Z = 1.959964  # of LEVEL, two-sided


@dataclass(frozen=True)
class Interval:
    """The middle 95 per cent of what resampling gives."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better one candidate is than another on the same clips, higher being better, with its interval."""

    gain: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


def intervals(predictions: Predictions, *, seed: int = 0) -> dict[str, Interval]:
    """The interval of every score that these predictions have, by its field in Scores; of the log loss as it is there,
    lower being better.

    Resampling clips that are all right, or all wrong, says nothing of doubt; there Wilson's interval stands (1927).
    """
    found = {}
    for metric in scores.metrics_of(predictions.labels):
        low, high = _middle(_resampled(predictions, metric, seed=seed))
        interval = Interval(-high, -low) if metric == "log_loss" else Interval(low, high)
        if metric != "log_loss" and low == high and low in (0.0, 1.0):
            interval = wilson(round(low * len(predictions.keys)), len(predictions.keys))
        found[scores.field(metric)] = interval
    return found


def difference(metric: str, ours: Predictions, theirs: Predictions, *, seed: int = 0) -> Difference:
    """How much better ours are than theirs, both resampled alike.

    InputError: predictions of different clips.
    """
    if ours.keys != theirs.keys:
        raise InputError("Only predictions of the same clips in the same order can be compared.")
    one, other = (
        scores.score(predictions.labels, predictions.logits, _columns(predictions)).under(metric)
        for predictions in (ours, theirs)
    )
    low, high = _middle(_resampled(ours, metric, seed=seed) - _resampled(theirs, metric, seed=seed))
    return Difference(one - other, low, high)


def wilson(right: int, clips: int) -> Interval:
    """Wilson's 95 per cent interval of a share."""
    share, spread = right / clips, Z**2 / clips
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / clips + spread / (4 * clips))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def _resampled(predictions: Predictions, metric: str, *, seed: int) -> Float[Tensor, "resamples"]:
    """The metric of each resample, higher being better; the same seed draws the same clips for every candidate."""
    return torch.cat([weighted(metric, predictions, drawn) for drawn in _draws(predictions, seed=seed)])


def _draws(predictions: Predictions, *, seed: int) -> Iterator[Float[Tensor, "resamples clips"]]:
    """How often each resample has each clip, a block of resamples at a time."""
    of_clip, count = _units(predictions)
    draw = torch.Generator().manual_seed(seed)
    for rows in torch.arange(RESAMPLES).split(max(1, BLOCK // len(predictions.keys))):
        drawn = torch.zeros(len(rows), count)
        places = torch.randint(count, (len(rows), count), generator=draw)
        drawn.scatter_add_(1, places, torch.ones(len(rows), count))
        weights = drawn[:, of_clip]
        if count < min(FEW_GROUPS, len(predictions.keys)):
            weights = torch.poisson(weights, generator=draw)  # clips within groups, as a Poisson bootstrap draws them
            weights = weights.where(weights.sum(1, keepdim=True) > 0, torch.ones(()))
        yield weights


def _units(predictions: Predictions) -> tuple[Tensor, int]:
    """Which unit of resampling each clip belongs to, and how many units there are."""
    numbers: dict[tuple[bool, str], int] = {}
    for key, group in zip(predictions.keys, predictions.groups, strict=True):
        numbers.setdefault((group is None, key if group is None else group), len(numbers))
    of_clip = [
        numbers[(group is None, key if group is None else group)]
        for key, group in zip(predictions.keys, predictions.groups, strict=True)
    ]
    return torch.tensor(of_clip), len(numbers)


def weighted(
    metric: str, predictions: Predictions, weights: Float[Tensor, "resamples clips"]
) -> Float[Tensor, "resamples"]:
    """The metric where each clip counts as often as its weight says; with weights of 1 that of `scores.score`."""
    single = predictions.labels.ndim == 1
    columns = predictions.logits.shape[1]
    truth = F.one_hot(predictions.labels, columns).bool() if single else predictions.labels.bool()
    predicted = F.one_hot(predictions.logits.argmax(1), columns).bool() if single else predictions.logits > 0
    match metric:
        case "accuracy":
            return weights @ (truth == predicted).all(1).float() / weights.sum(1)
        case "log_loss":
            return -(weights @ F.cross_entropy(predictions.logits, predictions.labels, reduction="none")) / weights.sum(
                1
            )
        case "map":
            return _mean_over(_average_precisions(truth, predictions.logits, weights), weights @ truth.float() > 0)
    right, there, called = (weights @ each.float() for each in (truth & predicted, truth, predicted))
    match metric:
        case "uar":
            return _mean_over(right / there, there > 0)
        case "macro_f1":
            return _mean_over(2 * right / (there + called), there + called > 0)
        case "micro_f1":
            return 2 * right.sum(1) / (there.sum(1) + called.sum(1)).clamp(min=1)
    raise InputError(f"Unknown metric {metric!r}; choose one of {', '.join(scores.metrics_of(predictions.labels))}.")


def _average_precisions(truth: Tensor, logits: Tensor, weights: Tensor) -> Float[Tensor, "resamples classes"]:
    """As scores.average_precision, of weighted clips."""
    found = []
    for column, column_logits in zip(truth.T, logits.T, strict=True):
        ordered, order = column_logits.sort(descending=True, stable=True)
        last_of_equals = torch.searchsorted(-ordered, -ordered, right=True) - 1
        each, hits = weights[:, order].double(), column[order].double()
        precision = (each * hits).cumsum(1)[:, last_of_equals] / each.cumsum(1)[:, last_of_equals].clamp(min=1e-9)
        found.append((precision * each * hits).sum(1) / (each * hits).sum(1).clamp(min=1e-9))
    return torch.stack(found, 1).float()


def _mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of each row over the columns that count."""
    return values.where(counted, torch.zeros(())).sum(1) / counted.sum(1).clamp(min=1)


def _middle(values: Tensor) -> tuple[float, float]:
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = values.double().quantile(ends).tolist()
    return low, high


def _columns(predictions: Predictions) -> range:
    return range(predictions.logits.shape[1])
