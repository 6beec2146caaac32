"""Mining: values worked out by hand on unit vectors at angles, and pytorch-metric-learning as an independent
reference.
"""

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor

from audioconfit import mining
from audioconfit.mining import Pairs


def points(*degrees: float) -> Tensor:
    """Unit vectors at these angles."""
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def mined(kind: str, angles: tuple[float, ...], labels: list[int], margin: float = 0.1) -> tuple[set, set]:
    """The kept (anchor, positive) and (anchor, negative) index pairs."""
    rows, wanted = points(*angles), torch.tensor(labels)
    pairs = mining.miner(kind, margin=margin)(rows @ rows.T, mining.candidates(mining.affinity(wanted, wanted)))
    return set(map(tuple, pairs.positives.nonzero().tolist())), set(map(tuple, pairs.negatives.nonzero().tolist()))


def test_every_pair_is_a_candidate_but_a_row_with_itself() -> None:
    positives, negatives = mined("none", (0, 10, 180), [0, 0, 1])
    assert positives == {(0, 1), (1, 0)}
    assert negatives == {(0, 2), (1, 2), (2, 0), (2, 1)}


def test_hardest_keeps_the_farthest_positive_and_the_nearest_negative() -> None:
    positives, negatives = mined("hardest", (0, 20, 60, 90, 180), [0, 0, 0, 1, 1])
    assert positives == {(0, 2), (1, 2), (2, 0), (3, 4), (4, 3)}
    assert negatives == {(0, 3), (1, 3), (2, 3), (3, 2), (4, 2)}


def test_multi_similarity_drops_pairs_that_keep_the_margin() -> None:
    # cos 0 = 1 to the positive and cos 90 = 0 to the negatives: a margin of 0.1 holds for every anchor.
    assert mined("multi_similarity", (0, 0, 90, 90), [0, 0, 1, 1]) == (set(), set())


def test_multi_similarity_keeps_pairs_that_break_the_margin() -> None:
    # Anchor 0: positive at cos 60 = 0.5, negatives at cos 50 = 0.64 (nearer than the positive) and cos 180 = -1 (far).
    positives, negatives = mined("multi_similarity", (0, 60, 50, 180), [0, 0, 1, 1])
    assert (0, 1) in positives
    assert (0, 2) in negatives
    assert (0, 3) not in negatives


def test_a_wider_margin_keeps_more() -> None:
    angles, labels = (0, 30, 90, 100), [0, 0, 1, 1]
    assert mined("multi_similarity", angles, labels, margin=0.0) == (set(), set())
    assert mined("multi_similarity", angles, labels, margin=2.0) == mined("none", angles, labels)


@pytest.mark.parametrize("kind", ["multi_similarity", "hardest", "none"])
def test_an_anchor_alone_in_its_class_has_no_positive(kind: str) -> None:
    positives, _ = mined(kind, (0, 10, 40), [0, 0, 1])
    assert not any(anchor == 2 for anchor, _ in positives)


@pytest.mark.parametrize("kind", ["multi_similarity", "hardest"])
def test_a_batch_of_one_class_has_no_negative(kind: str) -> None:
    _, negatives = mined(kind, (0, 10, 40), [0, 0, 0])
    assert negatives == set()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_multi_similarity_agrees_with_pytorch_metric_learning(seed: int, margin: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(48, 8, generator=draw), dim=1)
    labels = torch.randint(9, (48,), generator=draw)
    every = mining.candidates(mining.affinity(labels, labels))
    pairs = mining.multi_similarity(rows @ rows.T, every, margin=margin)
    anchors, positives, also_anchors, negatives = MultiSimilarityMiner(epsilon=margin, distance=CosineSimilarity())(
        rows, labels
    )
    expected = Pairs(torch.zeros(48, 48, dtype=torch.bool), torch.zeros(48, 48, dtype=torch.bool))
    expected.positives[anchors, positives] = True
    expected.negatives[also_anchors, negatives] = True
    assert torch.equal(pairs.positives, expected.positives)
    assert torch.equal(pairs.negatives, expected.negatives)


def test_affinity_of_label_sets_is_their_jaccard_index() -> None:
    sets = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]]).float()
    assert mining.affinity(sets, sets)[0].tolist() == pytest.approx([1, 1 / 3, 1, 0])
    assert mining.affinity(sets, sets)[3].tolist() == [0, 0, 0, 0]


def test_unknown_mining_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Unknown mining 'easy'; choose one of hardest, multi_similarity, none"):
        mining.miner("easy")
