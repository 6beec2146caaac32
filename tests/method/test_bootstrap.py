"""Doubt: intervals against brute force, groups drawn whole, candidates compared on the same draws."""

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from audioconfit import bootstrap, predictions, scores
from audioconfit.predictions import Predictions


def said(right: list[bool], groups: list[str | None] | None = None) -> Predictions:
    """Clips of one class, which the probe finds or takes for another."""
    logits = torch.tensor([[1.0, 0.0] if hit else [0.0, 1.0] for hit in right])
    keys = tuple(map(str, range(len(right))))
    return Predictions(keys, tuple(groups or [None] * len(right)), torch.zeros(len(right), dtype=torch.long), logits)


def some(seed: int, *, multi_label: bool = False, clips: int = 60) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(clips, 4, generator=draw).round(decimals=1)  # with equal ones
    labels = torch.randint(4, (clips,), generator=draw)
    if multi_label:
        labels = (torch.rand(clips, 4, generator=draw) < 0.4).float()
    return Predictions(tuple(map(str, range(clips))), (None,) * clips, labels, logits)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_weight_of_two_is_a_clip_twice(multi_label: bool) -> None:
    one = some(0, multi_label=multi_label)
    weights = torch.randint(0, 4, (3, 60), generator=torch.Generator().manual_seed(1)).float()
    for row in weights:
        repeated = torch.arange(60).repeat_interleave(row.long())
        expected = scores.score(one.labels[repeated], one.logits[repeated], range(4))
        for metric in scores.metrics_of(one.labels):
            assert bootstrap.weighted(metric, one, row[None]).item() == pytest.approx(expected.under(metric), abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_score_lies_in_its_interval(multi_label: bool) -> None:
    one = some(0, multi_label=multi_label)
    scored, found = scores.score(one.labels, one.logits, range(4)), bootstrap.intervals(one)
    assert len(found) == len(scores.metrics_of(one.labels))
    for name, interval in found.items():
        assert interval.low < getattr(scored, name) < interval.high, name


def test_without_groups_the_interval_is_that_of_resampled_clips() -> None:
    one = said([place % 10 < 7 for place in range(100)])
    draws = [sum(random.Random(draw).choices([1] * 70 + [0] * 30, k=100)) / 100 for draw in range(4000)]
    expected = (sorted(draws)[100], sorted(draws)[3900])
    found = bootstrap.intervals(one)["accuracy"]
    assert (found.low, found.high) == pytest.approx(expected, abs=0.016)


def test_with_groups_whole_groups_are_drawn() -> None:
    # Ten speakers of ten clips, all of a speaker's right or all wrong: there are ten answers, not a hundred.
    groups = [str(place // 10) for place in range(100)]
    one = said([place // 10 < 7 for place in range(100)], groups)
    draws = [sum(random.Random(draw).choices([1] * 7 + [0] * 3, k=10)) / 10 for draw in range(4000)]
    found = bootstrap.intervals(one)["accuracy"]
    assert (found.low, found.high) == pytest.approx((sorted(draws)[100], sorted(draws)[3900]), abs=0.1001)
    assert found.high - found.low > 2 * (0.3 * 0.7 / 100) ** 0.5 * 1.96


def test_one_speaker_is_resampled_by_clips() -> None:
    hits = [place % 10 < 7 for place in range(100)]
    alone, without = bootstrap.intervals(said(hits, ["anna"] * 100)), bootstrap.intervals(said(hits))
    assert alone["accuracy"].low == pytest.approx(without["accuracy"].low, abs=0.02)
    assert alone["accuracy"].high == pytest.approx(without["accuracy"].high, abs=0.02)


@pytest.mark.parametrize(("right", "clips", "low", "high"), [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775)])
def test_all_right_and_all_wrong_have_wilsons_interval(right: int, clips: int, low: float, high: float) -> None:
    found = bootstrap.intervals(said([place < right for place in range(clips)]))["accuracy"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found == bootstrap.wilson(right, clips)


def test_candidates_are_compared_clip_by_clip() -> None:
    # One is right wherever the other is and on four clips more: alone they overlap, together there is no doubt.
    other = [place % 2 == 0 for place in range(60)]
    one = [hit or place in (1, 3, 5, 7, 9, 11) for place, hit in enumerate(other)]
    found = bootstrap.difference("accuracy", said(one), said(other))
    assert found.gain == pytest.approx(0.1)
    assert found.is_clear
    assert found.low > 0
    mirrored = bootstrap.difference("accuracy", said(other), said(one))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert bootstrap.intervals(said(one))["accuracy"].low < bootstrap.intervals(said(other))["accuracy"].high


def test_a_gain_that_one_speaker_makes_is_in_doubt() -> None:
    groups = [str(place // 10) for place in range(60)]
    one, other = [place < 10 for place in range(60)], [False] * 60
    assert bootstrap.difference("accuracy", said(one), said(other)).is_clear
    assert not bootstrap.difference("accuracy", said(one, groups), said(other, groups)).is_clear


def test_other_clips_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same clips"):
        bootstrap.difference("accuracy", said([True]), said([True, False]))


def test_the_same_seed_gives_the_same_interval() -> None:
    assert bootstrap.intervals(some(0), seed=3) == bootstrap.intervals(some(0), seed=3)
    assert bootstrap.intervals(some(0), seed=3) != bootstrap.intervals(some(0), seed=4)


def test_blocks_do_not_change_what_is_drawn_for_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", 6000)
    found = bootstrap.difference("uar", some(0), some(0))
    assert (found.gain, found.low, found.high) == (0, 0, 0)


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = said([True, False], ["anna", None])
    one.save(tmp_path / "said.safetensors")
    again = predictions.load(tmp_path / "said.safetensors")
    assert (again.keys, again.groups) == (one.keys, one.groups)
    assert torch.equal(again.logits, one.logits)
    both = predictions.join([one, again])
    assert both.groups == ("anna", None, "anna", None)
    assert F.softmax(both.logits, 1).shape == (4, 2)
