"""Scores: what predictions are worth. Labels and logits in, one frozen dataclass out.

Single labels and label sets are scored by the same arithmetic on 0/1 matrices of clips x classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audioconfit.errors import InputError


@dataclass(frozen=True)
class Scores:
    """Over `clips` clips; every score but the loss lies between 0 and 1.

    Where clips carry several labels, `accuracy` is the share whose label set is exactly right, and there is no
    confusion matrix; where they carry one, micro F1 is the accuracy, and mean average precision is not computed.
    """

    clips: int
    accuracy: float
    uar: float  # unweighted average recall, over the classes that occur
    macro_f1: float  # over the classes that occur in labels or predictions
    micro_f1: float
    confusion: tuple[tuple[int, ...], ...] | None  # clips by true class (rows) and predicted class (columns)
    mean_average_precision: float | None  # over the classes that occur
    log_loss: float | None  # mean cross-entropy in nats; not of label sets, whose logits have thresholds taken off

    @property
    def headline(self) -> float:
        """What selection looks at unless a recipe says otherwise: accuracy, or mean average precision where clips
        carry several labels.
        """
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision

    def under(self, metric: str | None) -> float:
        """The score by a metric of `metrics_of`, higher being better: the log loss is taken negative. None: `headline`.

        InputError: a metric that these clips do not have.
        """
        value = self.headline if metric is None else getattr(self, field(metric))
        if value is None:
            raise InputError(f"There is no {metric} of such labels; choose another metric.")
        return float(-value if metric == "log_loss" else value)


def field(metric: str) -> str:
    """The field of Scores that holds a metric."""
    return "mean_average_precision" if metric == "map" else metric


TITLES = {
    "accuracy": "accuracy",
    "uar": "UAR",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mean average precision",
    "log_loss": "log loss in nats",
}


def title(name: str) -> str:
    """What people read for a metric, or for the field of Scores that holds it."""
    return TITLES["map" if name == field("map") else name]


def metrics_of(labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"]) -> tuple[str, ...]:
    """The metrics that such labels have; micro F1 of single labels is the accuracy."""
    if labels.ndim == 1:
        return ("accuracy", "uar", "macro_f1", "log_loss")
    return ("accuracy", "uar", "macro_f1", "micro_f1", "map")


def fitting(metric: str | None, *, multi_label: bool) -> str:
    """The metric that judges a task: the one that was asked for where the task has it, else the task's own (accuracy,
    or mean average precision where clips carry several labels).
    """
    absent = "log_loss" if multi_label else "map"
    return ("map" if multi_label else "accuracy") if metric in (None, absent) else str(metric)


def score(
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"],
    logits: Float[Tensor, "rows columns"],  # clips x classes, which is checked and refused in words
    classes: Sequence[object],
) -> Scores:
    """What these logits are worth. The largest one is the prediction; for label sets (0/1 rows), each above 0 is.

    InputError: no clips, or logits of another shape than clips x classes.
    ArithmeticError: logits that are no finite numbers, which argmax would take for a prediction.
    """
    labels, logits = labels.cpu(), logits.detach().cpu()
    if len(labels) == 0 or logits.shape != (len(labels), len(classes)):
        raise InputError(
            f"Scores need a clip or more and logits of shape clips x classes, ({len(labels)}, {len(classes)}), "
            f"not {tuple(logits.shape)}."
        )
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise ArithmeticError(
            f"The logits of {broken} of {len(labels)} clips are no finite numbers; no score says that."
        )
    single = labels.ndim == 1
    truth = F.one_hot(labels, len(classes)).bool() if single else labels.bool()
    predicted = F.one_hot(logits.argmax(1), len(classes)).bool() if single else logits > 0

    right = (truth == predicted).all(1)
    occurs = truth.any(0)
    return Scores(
        clips=len(labels),
        accuracy=right.double().mean().item(),
        uar=_mean(_recall(truth, predicted)[occurs]),
        macro_f1=_mean(_f1(truth, predicted)[occurs | predicted.any(0)]),
        micro_f1=_f1(truth.reshape(-1, 1), predicted.reshape(-1, 1)).item(),
        confusion=_confusion(truth, predicted) if single else None,
        mean_average_precision=None if single else _mean(average_precision(truth, logits)[occurs]),
        log_loss=F.cross_entropy(logits, labels).item() if single else None,
    )


def by_group(
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"],
    logits: Float[Tensor, "clips classes"],
    groups: Sequence[str | None],
) -> dict[str, tuple[int, float]]:
    """Clips and accuracy of each group (speaker, source recording), worst first; clips without one are left out."""
    right = logits.argmax(1) == labels if labels.ndim == 1 else ((logits > 0) == labels.bool()).all(1)
    found: dict[str, list[bool]] = {}
    for group, hit in zip(groups, right.tolist(), strict=True):
        if group is not None:
            found.setdefault(group, []).append(hit)
    shares = {group: (len(hits), sum(hits) / len(hits)) for group, hits in found.items()}
    return dict(sorted(shares.items(), key=lambda item: (item[1][1], item[0])))


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
