"""Nobody stands on two sides: protocols by their counts, and properties over random tables of clips."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioconfit import splits
from audioconfit.corpora import Clip, Corpus
from audioconfit.errors import InputError

NOWHERE = Path("nowhere.wav")


def corpus_of(labels: list[str], groups: list[str] | None = None, **about: Any) -> Corpus:
    """Clips 0.wav, 1.wav, ... with these labels and groups."""
    found = groups or [None] * len(labels)  # type: ignore[list-item]
    clips = tuple(
        Clip(f"{place}.wav", NOWHERE, tuple(label.split("|")), group=group)
        for place, (label, group) in enumerate(zip(labels, found, strict=True))
    )
    return Corpus("birds", clips, multi_label=any("|" in label for label in labels), **about)


def keys(clips: tuple[Clip, ...]) -> set[str]:
    return {clip.key for clip in clips}


def check_sides(split: splits.Split, corpus: Corpus) -> None:
    """Every clip is on one side, no group on two, every class is taught, every side has clips."""
    sides = (split.train, split.valid, split.test)
    assert sorted(clip.key for side in sides for clip in side) == sorted(clip.key for clip in corpus.clips)
    groups = [{clip.group for clip in side if clip.group} for side in sides]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert {label for clip in split.train for label in clip.labels} == set(corpus.classes)
    assert all(sides)


# --- copies -------------------------------------------------------------------------------------------------------


def test_copies_stay_together_and_take_their_groups_along() -> None:
    labels = ["crow", "wren"] * 20
    groups = [f"s{place % 8}" for place in range(40)]
    corpus = corpus_of(labels, groups)
    copied = replace(corpus, copies=(("0.wav", "11.wav"), ("11.wav", "25.wav")))  # speakers 0, 3, 3 and 1
    for seed in range(20):
        split = splits.split(copied, seed=seed)
        assert not splits.crossing(split, copied)
        sides = [{clip.key for clip in side} for side in (split.train, split.valid, split.test)]
        together = {f"{place}.wav" for place in range(40) if place % 8 in (0, 3, 1)}
        assert any(together <= side for side in sides)
        (group,) = {
            clip.group for side in (split.train, split.valid, split.test) for clip in side if clip.key in together
        }
        assert group == "s0"


def test_copies_without_groups_stay_together_and_nobody_else_moves() -> None:
    corpus = corpus_of(["crow", "wren"] * 20)
    copied = replace(corpus, copies=(("0.wav", "1.wav", "2.wav"),))
    assert splits.regrouped(copied).clips[3:] == corpus.clips[3:]
    assert [clip.group for clip in splits.regrouped(copied).clips[:3]] == ["0.wav"] * 3
    assert splits.regrouped(corpus) is corpus
    assert not splits.crossing(splits.split(copied), copied)


def test_lists_of_a_corpus_stand_and_their_crossing_copies_are_told() -> None:
    clips = [
        Clip(f"{place}.wav", NOWHERE, (("crow", "wren")[place % 2],), split=("train", "valid", "test")[place // 4])
        for place in range(12)
    ]
    corpus = Corpus("birds", tuple(clips), protocol="given", copies=(("0.wav", "8.wav"), ("1.wav", "3.wav")))
    split = splits.split(corpus)
    assert keys(split.test) == {"8.wav", "9.wav", "10.wav", "11.wav"}
    assert splits.crossing(split, corpus) == [("0.wav", "8.wav")]


# --- properties ---------------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(3, 40), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_random_split_keeps_sixty_twenty_twenty_in_every_class(counts: list[int], seed: int) -> None:
    corpus = corpus_of([f"class {place}" for place, count in enumerate(counts) for _ in range(count)])
    split = splits.split(corpus, seed=seed)
    check_sides(split, corpus)
    for place, count in enumerate(counts):
        for side, share in ((split.train, 0.6), (split.valid, 0.2), (split.test, 0.2)):
            there = sum(clip.label == f"class {place}" for clip in side)
            assert there >= 1
            assert abs(there - share * count) <= 1.5


@given(
    units=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=12, max_size=40),
    seed=st.integers(0, 99),
)
def test_random_split_keeps_groups_together(units: list[tuple[int, int]], seed: int) -> None:
    units = [*units, *((label, 1) for label in range(4) for _ in range(3))]  # of every class three groups at least
    labels = [f"class {label}" for label, size in units for _ in range(size)]
    groups = [f"speaker {place}" for place, (_, size) in enumerate(units) for _ in range(size)]
    corpus = corpus_of(labels, groups)
    check_sides(splits.split(corpus, seed=seed), corpus)


@given(
    table=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=20, max_size=60),
    seed=st.integers(0, 99),
)
def test_random_split_of_a_multi_label_corpus_teaches_every_label(table: list[set[str]], seed: int) -> None:
    corpus = corpus_of(["|".join(sorted(labels)) for labels in table] + [label for label in "abcd" for _ in range(3)])
    check_sides(splits.split(replace(corpus, multi_label=True), seed=seed), corpus)


@given(speakers=st.integers(3, 9), each=st.integers(2, 9), data=st.data())
def test_leaving_one_speaker_out_tests_every_clip_once(speakers: int, each: int, data: st.DataObject) -> None:
    labels = [f"class {place % 2}" for _ in range(speakers) for place in range(each)]
    corpus = corpus_of(labels, [f"speaker {speaker}" for speaker in range(speakers) for _ in range(each)])
    folds = splits.fold_count(corpus, "leave_one_speaker_out")
    made = [splits.split(corpus, protocol="leave_one_speaker_out", fold=fold) for fold in range(folds)]
    for split in made:
        check_sides(split, corpus)
    assert Counter(key for split in made for key in keys(split.test)) == Counter(clip.key for clip in corpus.clips)


@given(folds=st.integers(3, 6), each=st.integers(1, 5))
def test_official_folds_test_every_clip_once(folds: int, each: int) -> None:
    clips = tuple(
        Clip(f"{fold}-{label}-{place}", NOWHERE, (label,), group=f"{fold}-{label}", fold=fold)
        for fold in range(1, folds + 1)
        for label in "ab"
        for place in range(each)
    )
    corpus = Corpus("esc50", clips, protocol="official_folds")
    assert splits.fold_count(corpus) == folds
    made = [splits.split(corpus, fold=fold) for fold in range(folds)]
    for split in made:
        check_sides(split, corpus)
    assert Counter(key for split in made for key in keys(split.test)) == Counter(clip.key for clip in clips)


@given(speakers=st.integers(1, 6), sx=st.lists(st.integers(1, 450), min_size=4, max_size=7, unique=True))
def test_timit_tests_the_last_two_sx_sentences(speakers: int, sx: list[int]) -> None:
    spoken = ["SA1", "SA2", "SI500", *(f"SX{number}" for number in sx)]
    clips = tuple(Clip(f"{s}/{name}", NOWHERE, (f"S{s}",), name=name) for s in range(speakers) for name in spoken)
    split = splits.split(Corpus("timit", clips, protocol="sentences"))
    ordered = [f"SX{number}" for number in sorted(sx)]
    assert {clip.name for clip in split.test} == set(ordered[-2:])
    assert {clip.name for clip in split.valid} == set(ordered[-4:-2])
    assert len(split.train) == speakers * (len(spoken) - 4)


@given(sides=st.lists(st.sampled_from(["train", "valid", "test"]), min_size=1, max_size=30))
def test_a_given_split_is_kept_or_refused(sides: list[str]) -> None:
    clips = tuple(Clip(f"{place}.wav", NOWHERE, ("crow",), split=side) for place, side in enumerate(sides))
    corpus = Corpus("birds", clips, protocol="given")
    if {"train", "test"} <= set(sides) and ("valid" in sides or sides.count("train") > 1):
        split = splits.split(corpus)
        check_sides(split, corpus)
        assert keys(split.test) == {clip.key for clip in clips if clip.split == "test"}
    else:
        with pytest.raises(ValueError, match="no clips for"):
            splits.split(corpus)


@settings(max_examples=20)
@given(order=st.permutations(range(20)), seed=st.integers(0, 5))
def test_random_split_depends_on_the_clips_and_the_seed_alone(order: list[int], seed: int) -> None:
    corpus = corpus_of(["crow", "wren"] * 10)
    shuffled = replace(corpus, clips=tuple(corpus.clips[place] for place in order))
    assert keys(splits.split(corpus, seed=seed).test) == keys(splits.split(shuffled, seed=seed).test)


# --- cases --------------------------------------------------------------------------------------------------------


def test_another_seed_is_another_split() -> None:
    corpus = corpus_of(["crow", "wren"] * 20)
    assert keys(splits.split(corpus, seed=0).test) != keys(splits.split(corpus, seed=1).test)


def test_a_class_with_one_clip_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"class 'wren' has a single clip.*1 such classes: wren"):
        splits.split(corpus_of(["crow", "crow", "crow", "wren"]))


def test_a_class_with_one_speaker_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="class 'wren' has a single group of clips"):
        splits.split(corpus_of(["crow", "crow", "crow", "wren", "wren"], ["one", "two", "three", "four", "four"]))


def test_two_clips_of_a_class_are_trained_and_tested() -> None:
    split = splits.split(corpus_of(["crow"] * 10 + ["wren"] * 2))
    assert [sum(clip.label == "wren" for clip in side) for side in (split.train, split.valid, split.test)] == [1, 0, 1]


def test_a_group_on_two_given_sides_is_refused_by_name() -> None:
    clips = [Clip(f"{side}.wav", NOWHERE, ("crow",), group="ann", split=side) for side in ("train", "valid", "test")]
    with pytest.raises(ValueError, match="ann would be in train and in valid"):
        splits.split(Corpus("birds", tuple(clips), protocol="given"))


def test_a_given_class_without_training_clips_is_refused_by_name() -> None:
    sides = {"train": "crow", "valid": "crow", "test": "wren"}
    clips = [Clip(f"{side}.wav", NOWHERE, (label,), split=side) for side, label in sides.items()]
    with pytest.raises(ValueError, match="wren has no clip in train"):
        splits.split(Corpus("birds", tuple(clips), protocol="given"))


def test_without_a_validation_part_a_fifth_of_train_is_held_out() -> None:
    clips = [Clip(f"{n}.wav", NOWHERE, ("crow",), split="train" if n < 10 else "test") for n in range(15)]
    split = splits.split(Corpus("birds", tuple(clips), protocol="given"))
    assert (len(split.train), len(split.valid), len(split.test)) == (8, 2, 5)


@pytest.mark.parametrize(
    ("protocol", "fold", "message"),
    [
        ("randomly", 0, "Unknown protocol 'randomly'; choose one of fault_filtered, given"),
        ("random", 1, "has no fold 1 here: 1 folds"),
        ("leave_one_speaker_out", 0, "has no fold 0 here: 0 folds"),
        ("speaker_independent", 0, "no clips by speaker 12, 14, 15, 16, 11"),
        ("sentences", 0, "speaker crow has 0 SX sentences"),
        ("given", 0, r"names no split for 0\.wav"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused(protocol: str, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splits.split(corpus_of(["crow"] * 5), protocol=protocol, fold=fold)


def plainly(corpus: Corpus, seed: int) -> list[set[str]]:
    """The random split as its rule says it, in quadratic time."""
    shares = (0.6, 0.2, 0.2)
    by_group: dict[tuple[bool, str], list[Clip]] = {}
    for clip in corpus.clips:
        by_group.setdefault((clip.group is None, clip.group or clip.key), []).append(clip)
    waiting = sorted(by_group.values(), key=lambda unit: unit[0].key)
    random.Random(seed).shuffle(waiting)
    spread = Counter(label for unit in waiting for label in {label for clip in unit for label in clip.labels})
    totals = Counter(label for clip in corpus.clips for label in clip.labels)
    wanted = [{label: share * totals[label] for label in totals} for share in shares]
    sides: list[list[Clip]] = [[], [], []]
    for label in sorted(totals, key=lambda label: (spread[label], label)):
        ours = [unit for unit in waiting if any(label in clip.labels for clip in unit)]
        waiting = [unit for unit in waiting if unit not in ours]
        for unit in sorted(ours, key=len, reverse=True):
            need = [0 if any(label in clip.labels for clip in sides[i]) else (3, 1, 2)[i] for i in range(3)]
            side = max(range(3), key=lambda i: (need[i], wanted[i][label]))
            sides[side] += unit
            for clip in unit:
                for each in clip.labels:
                    wanted[side][each] -= 1
    return [{clip.key for clip in side} for side in sides]


@given(
    table=st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1, max_size=2), st.sampled_from(["", "g", "h", "i"])),
        min_size=12,
        max_size=40,
    ),
    seed=st.integers(0, 99),
)
def test_the_random_split_is_the_one_that_its_rule_gives(table: list[tuple[set[str], str]], seed: int) -> None:
    clips = tuple(
        Clip(f"{place:02d}.wav", NOWHERE, tuple(sorted(labels)), group=group or None)
        for place, (labels, group) in enumerate(table)
    )
    corpus = Corpus("birds", clips, multi_label=True)
    try:
        train, valid, test = splits.stratified(corpus, seed=seed)
    except InputError:  # a class in a single group
        return
    assert [keys(tuple(side)) for side in (train, valid, test)] == plainly(corpus, seed)
