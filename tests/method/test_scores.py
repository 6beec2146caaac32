"""Scores: small tables worked out by hand, and scikit-learn as an independent reference."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import Tensor

from audioconfit import scores


def predictions(*classes: int, of: int) -> Tensor:
    """Logits whose largest are these classes."""
    return F.one_hot(torch.tensor(classes), of).float()


# Class 0: 3 clips, 2 right. Class 1: 1 clip, right. Class 2: 1 clip, taken for class 0.
LABELS, LOGITS, CLASSES = torch.tensor([0, 0, 0, 1, 2]), predictions(0, 0, 1, 1, 0, of=3), ("a", "b", "c")


def test_accuracy_counts_clips() -> None:
    assert scores.score(LABELS, LOGITS, CLASSES).accuracy == pytest.approx(3 / 5)


def test_uar_counts_classes() -> None:
    assert scores.score(LABELS, LOGITS, CLASSES).uar == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_macro_f1_is_the_mean_of_the_classes() -> None:
    # a: 2 TP, 1 FP, 1 FN; b: 1 TP, 1 FP; c: nothing right.
    assert scores.score(LABELS, LOGITS, CLASSES).macro_f1 == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)


def test_confusion_has_true_classes_in_rows() -> None:
    assert scores.score(LABELS, LOGITS, CLASSES).confusion == ((2, 1, 0), (0, 1, 0), (1, 0, 0))


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count() -> None:
    padded = torch.cat([LOGITS, torch.full((5, 1), -1.0)], dim=1)
    with_absent, without = scores.score(LABELS, padded, (*CLASSES, "d")), scores.score(LABELS, LOGITS, CLASSES)
    assert (with_absent.uar, with_absent.macro_f1) == pytest.approx((without.uar, without.macro_f1))


def test_a_metric_is_read_so_that_higher_is_better() -> None:
    scored = scores.score(LABELS, LOGITS, CLASSES)
    assert scored.under(None) == scored.under("accuracy") == pytest.approx(3 / 5)
    # Of three logits, one of them 1: the right one's probability is e / (e + 2), a wrong one's 1 / (e + 2).
    right, wrong = math.log((math.e + 2) / math.e), math.log(math.e + 2)
    assert scored.under("log_loss") == pytest.approx(-(3 * right + 2 * wrong) / 5)
    with pytest.raises(ValueError, match="no map of such labels"):
        scored.under("map")


def test_a_task_without_the_metric_is_judged_by_its_own() -> None:
    assert scores.fitting("map", multi_label=False) == "accuracy"
    assert scores.fitting("log_loss", multi_label=True) == "map"
    assert scores.fitting("uar", multi_label=True) == scores.fitting("uar", multi_label=False) == "uar"
    assert (scores.fitting(None, multi_label=True), scores.fitting(None, multi_label=False)) == ("map", "accuracy")


def test_groups_are_listed_worst_first() -> None:
    found = scores.by_group(LABELS, LOGITS, ["anna", "anna", "bert", "bert", None])
    assert list(found.items()) == [("bert", (2, 0.5)), ("anna", (2, 1.0))]


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    labels, logits = torch.randint(6, (80,), generator=draw), torch.randn(80, 6, generator=draw)
    scored, predicted = scores.score(labels, logits, "abcdef"), logits.argmax(1)
    assert scored.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scored.uar == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert scored.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert scored.micro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert scored.log_loss == pytest.approx(metrics.log_loss(labels, logits.double().softmax(1)), abs=1e-6)
    assert scored.confusion == tuple(map(tuple, metrics.confusion_matrix(labels, predicted).tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_label_sets_agree_with_scikit_learn(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(60, 4, generator=draw) < 0.4).float()
    logits = torch.randn(60, 4, generator=draw).round(decimals=1)  # with equal ones
    scored, predicted = scores.score(labels, logits, "abcd"), logits > 0
    assert scored.mean_average_precision == pytest.approx(metrics.average_precision_score(labels, logits))
    assert scored.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert scored.micro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert scored.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scored.headline == scored.mean_average_precision


def test_average_precision_of_one_right_clip_at_the_second_place_is_a_half() -> None:
    truth, logits = torch.tensor([[False], [True], [False]]), torch.tensor([[3.0], [2.0], [1.0]])
    assert scores.average_precision(truth, logits).item() == 0.5


@pytest.mark.parametrize(
    ("labels", "logits"), [(LABELS[:0], LOGITS[:0]), (LABELS, LOGITS[:3]), (LABELS, LOGITS[:, :2])]
)
def test_what_does_not_fit_together_is_refused(labels: Tensor, logits: Tensor) -> None:
    with pytest.raises(ValueError, match="Scores need a clip or more and logits of shape clips x classes"):
        scores.score(labels, logits, CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_have_no_score(value: float) -> None:
    with pytest.raises(ArithmeticError, match="1 of 2 clips"):
        scores.score(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, value]]), ["a", "b"])
