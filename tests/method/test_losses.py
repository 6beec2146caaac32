"""Losses: values worked out by hand on unit vectors at angles, and pytorch-metric-learning as an independent
reference.
"""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor

from audioconfit import losses, mining


def points(*degrees: float) -> Tensor:
    """Unit vectors at these angles."""
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def supcon(rows: Tensor, labels: list[int], **settings: Any) -> float:
    return losses.supcon(rows, torch.tensor(labels), **settings).item()


def test_two_classes_at_right_angles() -> None:
    # Each anchor: its positive at cosine 0, one negative at 0 and one at -1.
    assert supcon(points(0, 90, 180, 270), [0, 0, 1, 1], temperature=1.0) == pytest.approx(math.log(2 + math.exp(-1)))


def test_temperature_divides_the_cosine() -> None:
    assert supcon(points(0, 90, 180, 270), [0, 0, 1, 1], temperature=0.5) == pytest.approx(math.log(2 + math.exp(-2)))


def test_the_length_of_an_embedding_does_not_matter() -> None:
    rows = points(0, 90, 180, 270)
    lengths = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert supcon(rows * lengths, [0, 0, 1, 1]) == pytest.approx(supcon(rows, [0, 0, 1, 1]))


def test_anchor_without_positive_is_left_out() -> None:
    # Anchors 0 and 1 see each other at 0 and row 2 at -1 and 0; row 2 has no positive and is not counted in the mean.
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0))) / 2
    assert supcon(points(0, 90, 180), [0, 0, 1], temperature=1.0) == pytest.approx(expected)


def test_a_batch_without_any_pair_is_zero_with_zero_gradient() -> None:
    rows = points(0, 90, 180).requires_grad_()
    loss = losses.supcon(rows, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None
    assert rows.grad.abs().max() == 0


def test_anchors_that_mining_leaves_without_pairs_have_no_gradient() -> None:
    rows = points(0, 0, 90, 90).requires_grad_()
    loss = losses.supcon(rows, torch.tensor([0, 0, 1, 1]), miner=mining.multi_similarity)
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None
    assert rows.grad.abs().max() == 0


def test_mining_leaves_the_mined_pairs_alone_in_the_denominator() -> None:
    # Hardest: each anchor meets its one positive (0) and its nearest negative (0): log 2, and not log(2 + 1/e).
    rows, labels = points(0, 90, 180, 270), [0, 0, 1, 1]
    assert supcon(rows, labels, temperature=1.0, miner=mining.hardest) == pytest.approx(math.log(2))


def test_keep_denominator_mines_the_positives_alone() -> None:
    rows, labels = points(0, 90, 180, 270), [0, 0, 1, 1]
    kept = supcon(rows, labels, temperature=1.0, miner=mining.hardest, keep_denominator=True)
    assert kept == pytest.approx(math.log(2 + math.exp(-1)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [None, 0.1, 0.5])
def test_supcon_agrees_with_pytorch_metric_learning(seed: int, margin: float | None) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows, labels = torch.randn(64, 16, generator=draw), torch.randint(12, (64,), generator=draw)
    ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    miner = mining.none if margin is None else partial(mining.multi_similarity, margin=margin)
    loss = losses.supcon(ours, labels, temperature=0.1, miner=miner)
    # Through an outer normalise: that library's own one differentiates differently.
    pairs = None if margin is None else MultiSimilarityMiner(epsilon=margin)(F.normalize(theirs, dim=1), labels)
    expected = SupConLoss(temperature=0.1)(F.normalize(theirs, dim=1), labels, pairs)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(mining.MINERS))
def test_label_sets_of_one_label_give_plain_supcon(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(32, 8, generator=draw), torch.randint(5, (32,), generator=draw)
    plain = losses.supcon(rows, labels, miner=mining.miner(kind))
    sets = losses.supcon(rows, F.one_hot(labels, 5).float(), miner=mining.miner(kind))
    assert sets.item() == pytest.approx(plain.item(), rel=1e-6)


def test_positives_weigh_by_the_jaccard_index_of_their_label_sets() -> None:
    # Anchor {a, b} at 0: {a, b} at 90 weighs 1, {b, c} at 180 weighs 1/3; all others have only those positives too.
    rows = points(0, 90, 180)
    sets = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1]]).double()
    near, far = math.log(1 + math.exp(-1)), math.log(math.e + 1)  # anchor 0: -log p of rows 1 and 2
    first = (1 * near + far / 3) / (4 / 3)
    second = math.log(2)  # anchor 1 sees both at cosine 0
    third = (far + near) / 2  # anchor 2: row 0 at -1 and row 1 at 0, of equal weight
    assert losses.supcon(rows, sets, temperature=1.0).item() == pytest.approx((first + second + third) / 3)


def test_half_precision_embeddings_meet_in_float32() -> None:
    assert losses.supcon(torch.randn(8, 4, dtype=torch.bfloat16), torch.arange(8) % 2).dtype == torch.float32


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, not 0"):
        losses.supcon(points(0, 90), torch.tensor([0, 0]), temperature=0)


def test_cross_entropy_is_the_mean_over_rows() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 0])
    assert losses.cross_entropy(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_cross_entropy_of_label_sets_is_the_mean_over_rows_and_classes() -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert losses.cross_entropy(torch.zeros(2, 3), labels).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("settings", [{}, {"miner": mining.multi_similarity}, {"keep_denominator": True}])
def test_a_loss_that_is_scaled_for_fp16_has_a_gradient_that_is_scaled(settings: dict[str, Any]) -> None:
    found = []
    for scale in (1.0, 2.0**16):
        rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
        labels = torch.tensor([0, 0, 1, 1, 2, 3])  # the last two have no positive
        (scale * losses.supcon(rows, labels, **settings)).backward()
        assert rows.grad is not None
        found.append(rows.grad)
    torch.testing.assert_close(found[1], 2.0**16 * found[0])
