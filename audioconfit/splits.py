"""Splits: who is held out. Every protocol is a pure function from a corpus to train, valid and test clips.

`split` picks the corpus' own protocol unless another is asked for, and checks on every call that no clip, and no
speaker or source recording where the protocol keeps them together, stands on two sides.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from audioconfit.corpora import Clip, Corpus
from audioconfit.corpora.clips import SPLITS
from audioconfit.errors import InputError

EMODB_TEST = ("12", "14", "15", "16")
EMODB_VALID = "11"  # of the six training speakers the one with all seven emotions in the most even numbers
HELD_OUT = 0.2  # of own data for validation, and as much for test


@dataclass(frozen=True)
class Split:
    """Clips for training, selection and the final score. `classes` are the corpus' classes, sorted."""

    train: tuple[Clip, ...]
    valid: tuple[Clip, ...]
    test: tuple[Clip, ...]
    classes: tuple[str, ...]
    protocol: str  # a sentence with its source
    multi_label: bool = False


Sides = tuple[list[Clip], list[Clip], list[Clip]]


@dataclass(frozen=True)
class Protocol:
    """How one kind of split is made and what it promises."""

    cut: Callable[[Corpus, int, int], Sides]  # corpus, fold, seed
    sentence: str
    folds: Callable[[Corpus], int] = lambda corpus: 1
    keeps_groups: bool = True  # no speaker or source recording on two sides
    free: bool = False  # to keep copies of one recording on one side; lists and folds of a corpus stand as they are


def split(corpus: Corpus, *, protocol: str | None = None, fold: int = 0, seed: int = 0) -> Split:
    """Cut `corpus` by its own protocol or the named one; `fold` counts from 0.

    InputError: an unknown protocol, a fold that there is not, a class that cannot stand in train, an empty side, or
    (the corpus' own tables being wrong) a group on two sides.
    """
    chosen = _protocol(corpus, protocol)
    if not 0 <= fold < chosen.folds(corpus):
        raise InputError(f"{corpus.name} has no fold {fold} here: {chosen.folds(corpus)} folds, counted from 0.")
    joined = regrouped(corpus)
    train, valid, test = (tuple(side) for side in chosen.cut(joined if chosen.free else corpus, fold, seed))
    made = Split(train, valid, test, corpus.classes, chosen.sentence, corpus.multi_label)
    _check(made, corpus.name, chosen.keeps_groups)
    if joined is corpus:
        return made
    found = {clip.key: clip for clip in joined.clips}
    train, valid, test = (tuple(found[clip.key] for clip in side) for side in (train, valid, test))
    return replace(made, train=train, valid=valid, test=test)


def regrouped(corpus: Corpus) -> Corpus:
    """The corpus with recordings that are byte for byte the same in one group, and with them the groups they are in."""
    if not corpus.copies:
        return corpus
    units = {clip.key: clip.group if clip.group is not None else clip.key for clip in corpus.clips}
    leads = {unit: unit for unit in units.values()}

    def lead(unit: str) -> str:
        while leads[unit] != unit:
            unit = leads[unit] = leads[leads[unit]]
        return unit

    for same in corpus.copies:
        first, *others = sorted({lead(units[key]) for key in same if key in units})
        leads.update(dict.fromkeys(others, first))
    copied = {lead(units[key]) for same in corpus.copies for key in same if key in units}
    clips = (
        replace(clip, group=lead(units[clip.key])) if lead(units[clip.key]) in copied else clip for clip in corpus.clips
    )
    return replace(corpus, clips=tuple(clips))


def crossing(split: Split, corpus: Corpus) -> list[tuple[str, ...]]:
    """The copies of one recording that stand on two sides, as a corpus' own lists may have them."""
    side = {
        clip.key: name
        for name, clips in (("train", split.train), ("valid", split.valid), ("test", split.test))
        for clip in clips
    }
    return [same for same in corpus.copies if len({side[key] for key in same if key in side}) > 1]


def fold_count(corpus: Corpus, protocol: str | None = None) -> int:
    """How many folds the protocol has: ESC-50 5, leave-one-speaker-out one per speaker, others 1."""
    return _protocol(corpus, protocol).folds(corpus)


def _protocol(corpus: Corpus, name: str | None) -> Protocol:
    name = name or corpus.protocol
    if name not in PROTOCOLS:
        raise InputError(f"Unknown protocol {name!r}; choose one of {', '.join(sorted(PROTOCOLS))}.")
    return PROTOCOLS[name]


def _check(made: Split, name: str, keeps_groups: bool) -> None:
    sides = {"train": made.train, "valid": made.valid, "test": made.test}
    for side, clips in sides.items():
        if not clips:
            raise InputError(f"{name}: no clips for {side} under this protocol ({made.protocol}).")
    for (one, ours), (other, theirs) in combinations(sides.items(), 2):
        both = {clip.key for clip in ours} & {clip.key for clip in theirs}
        if keeps_groups:
            both |= {clip.group for clip in ours if clip.group} & {clip.group for clip in theirs if clip.group}
        if both:
            raise InputError(f"{name}: {', '.join(sorted(both)[:3])} would be in {one} and in {other}.")
    untaught = set(made.classes) - {label for clip in made.train for label in clip.labels}
    if untaught:
        raise InputError(f"{name}: {', '.join(sorted(untaught)[:3])} has no clip in train under this protocol.")


# --- the six corpora ----------------------------------------------------------------------------------------------


def speaker_independent(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """EmoDB's 304 train and 231 test clips as audb publishes them: test speakers 12, 14, 15 and 16.

    There is no official validation set; training speaker 11 is held out for it (249 / 55 / 231).
    """
    absent = [speaker for speaker in (*EMODB_TEST, EMODB_VALID) if speaker not in {c.group for c in corpus.clips}]
    if absent:
        raise InputError(f"{corpus.name} has no clips by speaker {', '.join(absent)}, whom this protocol holds out.")
    return _sides(corpus, lambda c: "test" if c.group in EMODB_TEST else "valid" if c.group == EMODB_VALID else "train")


def leave_one_speaker_out(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """Fold k tests on the k-th speaker and validates on the next one, round the circle (as usual for EmoDB)."""
    speakers = _groups(corpus)
    if len(speakers) < 3:
        raise InputError(f"{corpus.name} names {len(speakers)} speakers; leaving one out needs 3.")
    test, valid = speakers[fold], speakers[(fold + 1) % len(speakers)]
    return _sides(corpus, lambda clip: "test" if clip.group == test else "valid" if clip.group == valid else "train")


def official_folds(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """ESC-50's five folds (Piczak 2015): fold k tests, the next one round the circle validates, three train.

    The folds hold 8 clips of each class, so 1200 / 400 / 400; the circle is HEAR's (Turian et al. 2022). They stand as
    published, though four source recordings lie in two folds each; `source_disjoint_folds` moves those.
    """
    test, valid = _around(corpus, fold)
    return _sides(corpus, lambda clip: "test" if clip.fold == test else "valid" if clip.fold == valid else "train")


def source_disjoint_folds(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """The official folds, but a source recording's clips all lie in the first fold that holds one of them."""
    test, valid = _around(corpus, fold)
    first: dict[str, int] = {}
    for clip in corpus.clips:
        if clip.group is not None and clip.fold is not None:
            first[clip.group] = min(clip.fold, first.get(clip.group, clip.fold))

    def side(clip: Clip) -> str:
        of = clip.fold if clip.group is None else first.get(clip.group, clip.fold)
        return "test" if of == test else "valid" if of == valid else "train"

    return _sides(corpus, side)


def _around(corpus: Corpus, fold: int) -> tuple[int, int]:
    """The fold that tests and the one after it, round the circle, that validates."""
    folds = _folds(corpus)
    if len(folds) < 3:
        raise InputError(f"{corpus.name} has clips of {len(folds)} folds; testing, validating and training need 3.")
    return folds[fold], folds[(fold + 1) % len(folds)]


def fault_filtered(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """GTZAN's lists without its repeated, distorted and mislabelled files: 443 / 197 / 290 (Kereliuk et al. 2015).

    Sturm 2013 found the faults. The parser has read the lists, which also keep an artist on one side.
    """
    return given(corpus, fold, seed)


def sentences(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """TIMIT: of a speaker's ten sentences the last two SX test, the two SX before validate, six train.

    2 SA, 3 SI and 1 SX remain for training: 3780 / 1260 / 1260. The test set is that of Reynolds 1995. The SA
    sentences are the same text for everyone and never leave training. "Last" is by sentence number.
    """
    spoken: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.name.upper().startswith("SX"):
            spoken[clip.label].append(clip)
    side: dict[str, str] = {}
    for speaker in corpus.classes:
        ordered = sorted(spoken[speaker], key=lambda clip: (int(clip.name[2:]), clip.key))
        if len(ordered) < 4:
            raise InputError(f"{corpus.name}: speaker {speaker} has {len(ordered)} SX sentences; the split takes 4.")
        side |= {clip.key: "test" for clip in ordered[-2:]} | {clip.key: "valid" for clip in ordered[-4:-2]}
    return _sides(corpus, lambda clip: side.get(clip.key, "train"))


def given(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """The split that the corpus itself names. Without a validation part, a fifth of train is held out for it."""
    sides = _sides(corpus, lambda clip: clip.split or "")
    train, valid, test = sides
    if sum(map(len, sides)) < len(corpus.clips):
        without = next(clip.key for clip in corpus.clips if clip.split not in SPLITS)
        raise InputError(f"{corpus.name} names no split for {without}; the random protocol needs none.")
    if train and not valid:
        train, valid = _apportion(corpus, train, (1 - HELD_OUT, HELD_OUT), seed)
    return train, valid, test


# --- own data -----------------------------------------------------------------------------------------------------


def stratified(corpus: Corpus, fold: int = 0, seed: int = 0) -> Sides:
    """60 / 20 / 20 per cent of every class at random by `seed`; clips of one group stay together.

    Every class gets a clip in train, and one in test and then valid as far as its clips (or groups) go. InputError
    names a class with a single clip or group, which cannot be trained and tested.
    """
    train, valid, test = _apportion(corpus, list(corpus.clips), (1 - 2 * HELD_OUT, HELD_OUT, HELD_OUT), seed)
    return train, valid, test


def _apportion(corpus: Corpus, clips: list[Clip], shares: tuple[float, ...], seed: int) -> list[list[Clip]]:
    """Whole groups to train, valid and test (or to train and valid), each class to train first, then to test."""
    found = units(clips)
    spread = Counter(label for unit in found for label in {label for clip in unit for label in clip.labels})
    alone = [label for label in sorted(spread) if spread[label] < 2]
    if alone and len(shares) == len(SPLITS):  # where test is given, a class' only clip stays in train
        grouped = any(clip.group is not None for clip in clips if alone[0] in clip.labels)
        kind = "group of clips" if grouped else "clip"
        raise InputError(
            f"{corpus.name}: class {alone[0]!r} has a single {kind}; to train and to test it takes two or more. "
            f"Add recordings of it or leave it out ({len(alone)} such classes: {', '.join(alone[:5])})."
        )
    urgencies = [len(shares), *range(1, len(shares))]
    return [
        sorted((clip for unit in side for clip in unit), key=lambda clip: clip.key)
        for side in deal(found, shares, urgencies, seed=seed)
    ]


def units(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips of each group; a clip without a group is a group of its own."""
    found: dict[tuple[bool, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        found[(clip.group is None, clip.group if clip.group is not None else clip.key)].append(clip)
    return sorted(found.values(), key=lambda unit: unit[0].key)


def deal(
    found: Sequence[list[Clip]], shares: Sequence[float], urgencies: Sequence[int], *, seed: int = 0
) -> list[list[list[Clip]]]:
    """Whole units to sides, rarest class first, each to the side that lacks most of the unit's classes.

    Iterative stratification (Sechidis et al. 2011) over groups. `urgencies`: of the sides that have no clip of a class
    yet, the one of the highest urgency gets the next.
    """
    order = list(found)
    random.Random(seed).shuffle(order)
    spread = Counter(label for unit in order for label in {label for clip in unit for label in clip.labels})
    totals = Counter(label for unit in order for clip in unit for label in clip.labels)
    wanted = [{label: share * totals[label] for label in totals} for share in shares]
    sides: list[list[list[Clip]]] = [[] for _ in shares]
    lacking = [set(totals) for _ in shares]
    dealt: set[int] = set()
    for label, ours in _units_by_label(order, sorted(totals, key=lambda label: (spread[label], label))):
        # Large groups first: the small ones can still even out what they did.
        for place in sorted((place for place in ours if place not in dealt), key=lambda place: -len(order[place])):
            side = max(
                range(len(shares)),
                key=lambda i: (urgencies[i] if label in lacking[i] else 0, wanted[i][label]),
            )
            dealt.add(place)
            sides[side].append(order[place])
            for clip in order[place]:
                lacking[side].difference_update(clip.labels)
                for each in clip.labels:
                    wanted[side][each] -= 1
    return sides


def _units_by_label(units: Sequence[Sequence[Clip]], labels: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Each label with the places of the units that have it."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        for label in {label for clip in unit for label in clip.labels}:
            places[label].append(place)
    yield from ((label, places[label]) for label in labels)


# --- what the protocols share -------------------------------------------------------------------------------------


def _sides(corpus: Corpus, side_of: Callable[[Clip], str]) -> Sides:
    sides: dict[str, list[Clip]] = {name: [] for name in (*SPLITS, "")}
    for clip in corpus.clips:
        sides[side_of(clip)].append(clip)
    return sides["train"], sides["valid"], sides["test"]


def _groups(corpus: Corpus) -> Sequence[str]:
    return sorted({clip.group for clip in corpus.clips if clip.group is not None})


def _folds(corpus: Corpus) -> Sequence[int]:
    return sorted({clip.fold for clip in corpus.clips if clip.fold is not None})


PROTOCOLS: dict[str, Protocol] = {
    "speaker_independent": Protocol(
        speaker_independent,
        "EmoDB's speaker-independent split (audb emodb 1.4.1; test speakers 12, 14, 15, 16), "
        "training speaker 11 held out for validation",
    ),
    "leave_one_speaker_out": Protocol(
        leave_one_speaker_out,
        "one speaker tests and the next one validates, over all speakers",
        folds=lambda corpus: len(_groups(corpus)),
    ),
    "official_folds": Protocol(
        official_folds,
        "ESC-50's five official folds (Piczak 2015), the fold after the test fold for validation",
        folds=lambda corpus: len(_folds(corpus)),
        keeps_groups=False,  # four source recordings lie in two folds, and the folds stand as published
    ),
    "source_disjoint_folds": Protocol(
        source_disjoint_folds,
        "ESC-50's five folds with each source recording in one of them, the fold after the test fold for validation",
        folds=lambda corpus: len(_folds(corpus)),
    ),
    "fault_filtered": Protocol(
        fault_filtered, "GTZAN's fault-filtered lists (Kereliuk, Sturm and Larsen 2015; Sturm 2013)"
    ),
    "sentences": Protocol(
        sentences,
        "per speaker six sentences train, two SX validate, the last two SX test (test set of Reynolds 1995)",
        keeps_groups=False,  # the speaker is the class
    ),
    "given": Protocol(given, "the split that the corpus names"),
    "random": Protocol(stratified, "60/20/20 per cent per class at random, groups kept together", free=True),
}
