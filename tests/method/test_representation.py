"""Analyses of embeddings, against vectors at known angles and counts done by hand."""

import math

import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from audioconfit import representation


def points(*degrees: float, length: float = 1.0) -> Tensor:
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return length * torch.stack([radians.cos(), radians.sin()], dim=1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_anisotropy_is_the_mean_cosine_of_pairs() -> None:
    assert representation.anisotropy(points(0, 60)) == pytest.approx(0.5)
    assert representation.anisotropy(points(0, 0, 90)) == pytest.approx(1 / 3)
    assert representation.anisotropy(points(0, 120, 240)) == pytest.approx(-0.5)


def test_anisotropy_does_not_depend_on_length() -> None:
    assert representation.anisotropy(torch.cat([points(0, length=9), points(60, length=0.1)])) == pytest.approx(0.5)


def test_anisotropy_without_pairs_equals_the_mean_over_them() -> None:
    embeddings = noise(50, 8) + 0.5
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=2)
    pairs = cosines[~torch.eye(50, dtype=torch.bool)]
    assert representation.anisotropy(embeddings) == pytest.approx(float(pairs.mean()), abs=1e-6)


def test_one_embedding_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="two embeddings or more, not 1"):
        representation.anisotropy(points(0))


def test_dimensions_share_the_cosine_as_their_products_do() -> None:
    """At 30 and 45 degrees: cos 30 cos 45 = .612 and sin 30 sin 45 = .354, of cos 15 = .966."""
    found = representation.contribution(points(30, 45))
    assert found.anisotropy == pytest.approx(math.cos(math.pi / 12))
    assert found.shares == pytest.approx((0.6340, 0.3660), abs=1e-4)


def test_shares_may_be_negative_and_add_up_to_one() -> None:
    """At +-30 degrees: .75 along, -.25 across, of cos 60 = .5."""
    assert representation.contribution(points(30, -30)).shares == pytest.approx((1.5, -0.5))


def test_table_3_counts_dimensions_from_the_largest_share() -> None:
    found = representation.Contribution(anisotropy=0.5, shares=(0.4, 0.3, 0.2, 0.1))
    assert [found.top(count) for count in (1, 2, 3)] == pytest.approx([0.4, 0.7, 0.9])
    assert [found.dimensions(share) for share in (0.4, 0.5, 0.8, 0.9, 1.0)] == [1, 2, 3, 3, 4]


def test_dimensions_have_no_shares_of_an_anisotropy_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match=r"is -0\.5, so dimensions have no shares"):
        representation.contribution(points(0, 120, 240))


def test_most_confused_classes_are_found_from_both_directions_of_the_matrix() -> None:
    """0 and 3 exchange .5, 1 exchanges .2 with 0; 2 and 4 exchange .3; 5 is never wrong."""
    confusion = [
        [6, 1, 0, 3, 0, 0],
        [1, 9, 0, 0, 0, 0],
        [0, 0, 7, 0, 3, 0],
        [2, 0, 0, 8, 0, 0],
        [0, 0, 0, 0, 5, 0],
        [0, 0, 0, 0, 0, 4],
    ]
    assert representation.most_confused(confusion) == [(0, 1, 3), (2, 4)]
    assert representation.most_confused(confusion, groups=1, size=2) == [(0, 3)]
    assert representation.most_confused(torch.eye(3, dtype=torch.long)) == []


def test_confusion_counts_as_a_share_of_the_class() -> None:
    """One clip of two is half a class; five of a hundred are not."""
    assert representation.most_confused([[95, 5, 0], [0, 100, 0], [1, 0, 1]], groups=1, size=2) == [(0, 2)]


def test_silhouette_is_1_for_points_that_coincide_within_classes_and_negative_where_swapped() -> None:
    embeddings = points(0, 0, 180, 180)
    assert representation.silhouette(embeddings, torch.tensor([0, 0, 1, 1])) == pytest.approx(1)
    assert representation.silhouette(embeddings, torch.tensor([0, 1, 0, 1])) == pytest.approx(-0.5)


def test_silhouette_equals_scikit_learns() -> None:
    embeddings, labels = noise(30, 5), torch.tensor([7] * 10 + [3] * 19 + [4])
    expected = silhouette_score(embeddings.numpy(), labels.numpy(), metric="cosine")
    assert representation.silhouette(embeddings, labels) == pytest.approx(expected, abs=1e-6)


def test_separability_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes or more, not of 1"):
        representation.silhouette(points(0, 90), torch.tensor([2, 2]))


def test_map_keeps_clusters_apart_and_together() -> None:
    centres = 4 * noise(3, 16)
    labels = torch.arange(3).repeat_interleave(20)
    found = representation.project(centres[labels] + noise(60, 16))
    distances = torch.cdist(found, found).fill_diagonal_(torch.inf)
    assert found.shape == (60, 2)
    assert (labels[distances.argmin(dim=1)] == labels).all()
    same = labels[:, None] == labels
    assert distances[same & distances.isfinite()].mean() < distances[~same].mean() / 2


def test_map_is_a_function_of_the_embeddings() -> None:
    embeddings = noise(12, 6)
    assert torch.equal(representation.project(embeddings), representation.project(embeddings))
    with pytest.raises(ValueError, match="four clips or more, not 3"):
        representation.project(embeddings[:3])
