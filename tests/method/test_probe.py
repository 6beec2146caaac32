"""Probes: features that can be told apart are, whatever their scale; scikit-learn as an independent reference."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audioconfit import neighbours, probe, scores
from audioconfit.errors import InputError
from audioconfit.features import Features

CLASSES = ("a", "b", "c")


def blobs(clips: int, *, seed: int, noise: float = 0.3, dim: int = 6) -> Features:
    """Three classes of clips around three directions."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(clips) % 3
    return features(torch.eye(dim)[labels] + noise * torch.randn(clips, dim, generator=draw), labels)


def label_sets(clips: int, *, seed: int, noise: float = 0.1) -> Features:
    """Each of three labels is there or not, and shows as a dimension of its own."""
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(clips, 3, generator=draw) < 0.3).float()
    return features(labels + noise * torch.randn(clips, 3, generator=draw), labels)


def features(embeddings: Tensor, labels: Tensor) -> Features:
    return Features(embeddings=embeddings, keys=tuple(map(str, range(len(labels)))), labels=labels)


def accuracy(fitted: probe.Probe | neighbours.KnnProbe, test: Features) -> float:
    return scores.score(test.labels, fitted.logits(test.embeddings), CLASSES).headline


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_classes_that_can_be_told_apart_are(kind: str) -> None:
    fitted = probe.fit(blobs(90, seed=0), blobs(30, seed=1), classes=CLASSES, lr=1e-2, kind=kind)
    assert accuracy(fitted, blobs(300, seed=2)) > 0.9


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_the_scale_of_the_features_does_not_matter(kind: str) -> None:
    def scaled(by: float) -> Tensor:
        train, valid, test = (blobs(60, seed=seed) for seed in range(3))
        train, valid = (features(one.embeddings * by + 5, one.labels) for one in (train, valid))
        return probe.fit(train, valid, classes=CLASSES, lr=1e-2, kind=kind).logits(test.embeddings * by + 5)

    torch.testing.assert_close(scaled(1.0), scaled(1e-3), rtol=1e-2, atol=1e-2)


def test_a_dimension_that_never_changes_is_harmless() -> None:
    train, valid = blobs(60, seed=0), blobs(30, seed=1)
    train.embeddings[:, 5] = 0.1
    fitted = probe.fit(train, valid, classes=CLASSES, lr=1e-2)
    assert fitted.logits(valid.embeddings).isfinite().all()


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_same_seed_same_probe_whatever_else_is_drawn(kind: str) -> None:
    train, valid = blobs(60, seed=0), blobs(30, seed=1)
    one = probe.fit(train, valid, classes=CLASSES, lr=1e-2, kind=kind, seed=3)
    torch.rand(7)
    same = probe.fit(train, valid, classes=CLASSES, lr=1e-2, kind=kind, seed=3)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)


def test_another_seed_draws_other_batches() -> None:
    train, valid = blobs(90, seed=0), blobs(30, seed=1)
    one, other = (probe.fit(train, valid, classes=CLASSES, lr=1e-2, epochs=2, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.weight, other.weight)


def test_lbfgs_finds_the_minimum_that_scikit_learn_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PENALTIES", (1e-2,))
    train = blobs(90, seed=0, noise=0.6)
    fitted = probe.fit(train, blobs(30, seed=1), classes=CLASSES, lr=1.0, kind="lbfgs")
    rows = (train.embeddings - train.embeddings.mean(0)) / train.embeddings.std(0, unbiased=False)
    reference = LogisticRegression(C=1 / (1e-2 * 90), tol=1e-10, max_iter=10_000).fit(rows, train.labels)
    torch.testing.assert_close(fitted.weight, torch.from_numpy(reference.coef_).float(), rtol=1e-3, atol=1e-4)


def test_lbfgs_takes_the_penalty_that_is_best_on_validation() -> None:
    # Few clips in many dimensions of noise: the weakest penalty follows the noise.
    train, valid = blobs(12, seed=0, noise=1.0, dim=40), blobs(300, seed=1, noise=1.0, dim=40)
    chosen = accuracy(probe.fit(train, valid, classes=CLASSES, lr=1.0, kind="lbfgs"), valid)
    for penalty in probe.PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(probe, "PENALTIES", (penalty,))
            assert accuracy(probe.fit(train, valid, classes=CLASSES, lr=1.0, kind="lbfgs"), valid) <= chosen


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_label_sets_are_told_with_a_threshold_per_class(kind: str) -> None:
    train, valid, test = (label_sets(120, seed=seed) for seed in range(3))
    fitted = probe.fit(train, valid, classes=CLASSES, lr=3e-2, kind=kind)
    scored = scores.score(test.labels, fitted.logits(test.embeddings), CLASSES)
    assert fitted.thresholds is not None
    assert scored.mean_average_precision > 0.95  # type: ignore[operator]
    assert scored.macro_f1 > 0.9


def test_the_threshold_is_where_validation_f1_is_best() -> None:
    # Logits 3 and 2 are of the class, 1 is not, 0 is again: cutting below 2 finds 2 of 3 without a mistake (F1 0.8),
    # cutting below 0 finds 3 with one mistake (F1 6/7).
    assert probe._threshold(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 1.0])) == -0.5
    assert probe._threshold(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])) == 1.5


def test_a_threshold_does_not_part_equal_logits() -> None:
    assert probe._threshold(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])) == 0.5


def test_a_class_without_validation_clips_keeps_the_even_threshold() -> None:
    assert probe._threshold(torch.tensor([1.0, -1.0]), torch.zeros(2)) == 0


def test_probabilities_and_predictions_follow_the_logits() -> None:
    fitted = probe.fit(blobs(60, seed=0), blobs(30, seed=1), classes=CLASSES, lr=1e-2)
    embeddings = torch.eye(6)[:3]
    assert fitted.predict(embeddings) == [("a",), ("b",), ("c",)]
    torch.testing.assert_close(fitted.probabilities(embeddings).sum(1), torch.ones(3))


@pytest.mark.parametrize("made", [blobs, label_sets])
def test_a_saved_probe_predicts_the_same(made: object, tmp_path: Path) -> None:
    fitted = probe.fit(made(60, seed=0), made(30, seed=1), classes=CLASSES, lr=1e-2)  # type: ignore[operator]
    fitted.save(tmp_path / "probe.safetensors")
    loaded = probe.Probe.load(tmp_path / "probe.safetensors")
    embeddings = made(30, seed=2).embeddings  # type: ignore[operator]
    assert torch.equal(loaded.logits(embeddings), fitted.logits(embeddings))
    assert loaded.predict(embeddings) == fitted.predict(embeddings)
    assert [file.name for file in tmp_path.iterdir()] == ["probe.safetensors"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown probe 'svm'; choose adam or lbfgs"):
        probe.fit(blobs(9, seed=0), blobs(9, seed=1), classes=CLASSES, lr=1e-2, kind="svm")


def test_neighbours_vote() -> None:
    # Angles 0, 10, 20 of class a and 90 of class b; a clip at 60 is nearest to b, but among its three nearest a wins.
    angles = torch.tensor([0.0, 10.0, 20.0, 90.0]).deg2rad()
    train = features(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 1]))
    at_60 = torch.tensor([[0.5, 0.75**0.5]])
    votes = {
        k: neighbours.KnnProbe(CLASSES[:2], train.embeddings, F.one_hot(train.labels).float(), k, False, 0.0)
        for k in (1, 3)
    }
    assert votes[1].logits(at_60).argmax().item() == 1
    assert votes[3].logits(at_60).argmax().item() == 0


def test_equal_votes_go_to_the_nearer() -> None:
    train = features(torch.eye(2), torch.tensor([0, 1]))
    votes = neighbours.KnnProbe(CLASSES[:2], train.embeddings, F.one_hot(train.labels).float(), 2, False, 0.0)
    assert votes.logits(torch.tensor([[0.6, 0.8], [0.8, 0.6]])).argmax(1).tolist() == [1, 0]


def test_k_is_chosen_on_validation() -> None:
    train, valid = blobs(60, seed=0, noise=0.8), blobs(90, seed=1, noise=0.8)
    fitted = neighbours.fit(train, valid, classes=CLASSES)
    assert fitted.valid_score == accuracy(fitted, valid)
    assert fitted.k in neighbours.NEIGHBOURS
    assert fitted.k > 1  # so noisy that one neighbour is a bad adviser


class Products(TorchDispatchMode):
    """Counts the products of float32 matrices; scores count in float64."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten.mm.default and args[0].dtype == torch.float32
        return function(*args, **(kwargs or {}))


def test_the_similarities_are_computed_once_for_all_k() -> None:
    beats: list[int] = []
    with Products() as products:
        knn = neighbours.fit(blobs(90, seed=0), blobs(600, seed=1), classes=CLASSES, alive=lambda: beats.append(1))
    assert len(beats) == products.count == 3  # blocks of 256
    with Products() as products:
        knn.logits(blobs(90, seed=2).embeddings)
    assert products.count == 1


def test_each_k_finds_what_it_would_find_alone() -> None:
    # Every row is there thirty times: which of its copies is nearest depends on how many are asked for.
    rows = F.normalize(blobs(3, seed=0).embeddings.repeat(30, 1), dim=1)
    together = neighbours._nearest(rows, rows, neighbours.NEIGHBOURS, device="cpu")
    for k, found in zip(neighbours.NEIGHBOURS, together, strict=True):
        alone = (F.normalize(rows, dim=1) @ rows.T).topk(k, dim=1)
        assert torch.equal(found.rows, alone.indices)
        assert torch.equal(found.similarity, alone.values)


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_a_fit_gives_signs_of_life(kind: str) -> None:
    beats: list[int] = []
    train, valid = blobs(90, seed=0), blobs(30, seed=1)
    probe.fit(train, valid, classes=CLASSES, lr=1e-2, epochs=5, kind=kind, alive=lambda: beats.append(1))
    assert len(beats) == 10 if kind == "adam" else len(beats) >= len(probe.PENALTIES)


def test_neighbours_of_label_sets_need_half_of_the_votes() -> None:
    train = features(torch.ones(3, 2), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    votes = neighbours.KnnProbe(CLASSES, F.normalize(train.embeddings, dim=1), train.labels, 3, True, 0.0)
    assert (votes.logits(torch.ones(1, 2)) > 0).tolist() == [[True, False, False]]


def unlike(sizes: dict[int, int], *, seed: int = 0) -> Features:
    """Two classes that overlap, of these sizes."""
    labels = torch.cat([torch.full((size,), label) for label, size in sizes.items()])
    draw = torch.Generator().manual_seed(seed)
    return features(labels[:, None] + torch.randn(len(labels), 4, generator=draw), labels)


def test_class_weights_make_classes_count_alike() -> None:
    labels = torch.tensor([0] * 6 + [1] * 2 + [3])
    weights = probe.class_weights(labels, 4)
    torch.testing.assert_close(weights, torch.tensor([9 / 18, 9 / 6, 0.0, 9 / 3]))
    assert weights[labels].sum() == len(labels)
    sets = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert probe.class_weights(sets, 3).tolist() == [1.0, 4.0, 0.25]


@pytest.mark.parametrize(("kind", "balance"), [("lbfgs", "weights"), ("adam", "weights"), ("adam", "sampling")])
def test_a_balanced_probe_hears_the_rare_class(kind: str, balance: Any) -> None:
    train, valid, test = unlike({0: 200, 1: 10}), unlike({0: 40, 1: 40}, seed=1), unlike({0: 300, 1: 300}, seed=2)
    said = {"classes": CLASSES[:2], "lr": 3e-2, "kind": kind, "epochs": 20}
    plain, balanced = (probe.fit(train, valid, balance=how, **said) for how in ("none", balance))
    assert balanced.score(test).uar > plain.score(test).uar + 0.1


def test_a_weighted_loss_is_that_of_the_class_repeated() -> None:
    train, valid = unlike({0: 40, 1: 10}), unlike({0: 20, 1: 20}, seed=1)
    four_times = features(
        torch.cat([train.embeddings, *[train.embeddings[40:]] * 3]), torch.cat([train.labels, *[train.labels[40:]] * 3])
    )
    fitted = [
        probe.fit(side, valid, classes=CLASSES[:2], lr=1.0, kind="lbfgs", balance=how).logits(valid.embeddings)
        for side, how in ((train, "weights"), (four_times, "none"))
    ]
    # Not equal, for features are standardised by the clips that are there; closer than the unweighted probe by far.
    plain = probe.fit(train, valid, classes=CLASSES[:2], lr=1.0, kind="lbfgs").logits(valid.embeddings)
    assert (fitted[0] - fitted[1]).abs().mean() < 0.1 * (plain - fitted[1]).abs().mean()


def test_label_sets_are_balanced_by_weights_and_not_by_sampling() -> None:
    train, valid = label_sets(90, seed=0), label_sets(60, seed=1)
    balanced = probe.fit(train, valid, classes=CLASSES, lr=1e-2, balance="weights")
    plain = probe.fit(train, valid, classes=CLASSES, lr=1e-2)
    assert (balanced.probabilities(valid.embeddings) > plain.probabilities(valid.embeddings)).float().mean() > 0.9
    with pytest.raises(InputError, match=r"clips carry several labels.*choose probe_balance=weights"):
        probe.fit(train, valid, classes=CLASSES, lr=1e-2, balance="sampling")
    with pytest.raises(InputError, match=r"probe=lbfgs reads all clips at once"):
        probe.fit(blobs(30, seed=0), blobs(30, seed=1), classes=CLASSES, lr=1e-2, kind="lbfgs", balance="sampling")
