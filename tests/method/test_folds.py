"""The development clips cut again: nobody on two sides, every clip validates once, every class is taught."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioconfit import folds, splits
from audioconfit.corpora import Clip, Corpus
from audioconfit.errors import InputError
from audioconfit.splits import Split

NOWHERE = Path("nowhere.wav")


def split_of(units: list[tuple[str | None, str]]) -> Split:
    """Clips by their (group, label), in a random split."""
    clips = tuple(Clip(f"{place:04d}", NOWHERE, (label,), group=group) for place, (group, label) in enumerate(units))
    return splits.split(Corpus("birds", clips))


def check(found: folds.Folds) -> None:
    first = found.splits[0]
    development = Counter(clip.key for clip in (*first.train, *first.valid))
    for each in found.splits:
        assert Counter(clip.key for clip in (*each.train, *each.valid)) == development
        assert each.test == first.test
        sides = [{clip.group for clip in side if clip.group} for side in (each.train, each.valid, each.test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert {label for clip in each.train for label in clip.labels} == set(first.classes)
        assert each.valid
    validating = Counter(clip.key for each in found.splits for clip in each.valid)
    staying = {clip.key for clip in first.train if (clip.group or clip.key) in found.always_train}
    assert validating == Counter(development.keys() - staying)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_clip_validates_once_and_no_group_stands_on_two_sides(seed: int) -> None:
    check_some_corpus(seed)


def check_some_corpus(seed: int) -> None:
    draw = random.Random(seed)
    grouped, labels = draw.random() < 0.7, [f"class {number}" for number in range(draw.randint(1, 5))]
    speakers = draw.randint(3, 12)
    units = [
        (f"s{draw.randrange(speakers)}" if grouped else None, draw.choice(labels)) for _ in range(draw.randint(12, 80))
    ]
    try:
        split = split_of(units)
    except InputError:  # a class with one group cannot be split at all
        return
    check(folds.cut(split))


@pytest.mark.slow
def test_ten_thousand_corpora() -> None:
    """The same property over more corpora than a developer wants to wait for."""
    for seed in range(10_000):
        check_some_corpus(seed)
        check_a_speaker_left_out(seed)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_folds_within_a_left_out_speakers_split_keep_everyone_on_one_side(seed: int) -> None:
    check_a_speaker_left_out(seed)


def check_a_speaker_left_out(seed: int) -> None:
    draw = random.Random(seed)
    speakers, labels = draw.randint(3, 9), [f"class {number}" for number in range(draw.randint(1, 4))]
    clips = tuple(
        Clip(f"{speaker}-{take}", NOWHERE, (draw.choice(labels),), group=f"s{speaker}")
        for speaker in range(speakers)
        for take in range(draw.randint(1, 9))
    )
    corpus = Corpus("birds", clips)
    protocol = "leave_one_speaker_out"
    fold = draw.randrange(splits.fold_count(corpus, protocol))
    try:
        split = splits.split(corpus, protocol=protocol, fold=fold)
    except InputError:  # the speaker alone has a class
        return
    assert len({clip.group for clip in split.test}) == 1
    check(folds.cut(split))


def spoken(trainers: int) -> Split:
    """`trainers` speakers "0", "1", ... who train, then one who validates and one who tests; each has both classes."""
    clips = tuple(
        Clip(f"{speaker}-{take}", NOWHERE, (f"class {take % 2}",), group=str(speaker), split=side)
        for speaker, side in enumerate(["train"] * trainers + ["valid", "test"])
        for take in range(4)
    )
    return splits.split(Corpus("birds", clips, protocol="given"))


def test_a_handful_of_speakers_validate_one_by_one() -> None:
    found = folds.cut(spoken(4))
    assert [{clip.group for clip in each.valid} for each in found.splits] == [{"4"}, {"0"}, {"1"}, {"2"}, {"3"}]


def test_more_speakers_than_folds_share_them() -> None:
    found = folds.cut(spoken(6))
    check(found)
    assert sorted(len({clip.group for clip in each.valid}) for each in found.splits) == [1, 1, 1, 2, 2]


def test_a_speaker_who_alone_has_a_class_stays_in_train() -> None:
    sides = {"anna": "train", "bert": "train", "carl": "train", "dora": "valid", "emil": "test"}
    clips = [
        Clip(f"{speaker}-{take}", NOWHERE, (("wren", "jay")[take % 2],), group=speaker, split=side)
        for speaker, side in sides.items()
        for take in range(4)
    ]
    owl = Clip("anna-owl", NOWHERE, ("owl",), group="anna", split="train")
    found = folds.cut(splits.split(Corpus("birds", (*clips, owl), protocol="given")))
    check(found)
    assert found.always_train == ("anna",)
    assert [{clip.group for clip in each.valid} for each in found.splits] == [{"dora"}, {"bert"}, {"carl"}]


def test_without_groups_each_class_is_spread_over_the_folds() -> None:
    found = folds.cut(split_of([(None, f"class {place % 4}") for place in range(200)]))
    check(found)
    for each in found.splits[1:]:
        assert Counter(clip.label for clip in each.valid) == {
            f"class {number}": pytest.approx(7.5, abs=1) for number in range(4)
        }


def test_a_refit_trains_on_all_development_clips() -> None:
    split = split_of([(None, f"class {place % 2}") for place in range(40)])
    both = folds.joined(split)
    assert {clip.key for clip in both.train} == {clip.key for clip in (*split.train, *split.valid)}
    assert both.test == split.test


def test_a_fold_that_there_is_not_is_refused() -> None:
    split = split_of([(None, f"class {place % 2}") for place in range(40)])
    assert folds.of(split, 0) is split
    with pytest.raises(InputError, match="no inner fold 9 here: 5 folds"):
        folds.of(split, 9)
