"""Folds: the development clips of a split (train and valid) cut again, so that a choice need not rest on one validation
side that happens to be easy for one candidate.

Fold 0 is the split itself. The others take their validation clips from its train side, whole groups at a time, so that
over all folds every development clip validates once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from audioconfit import splits
from audioconfit.corpora import Clip
from audioconfit.errors import InputError
from audioconfit.splits import Split

FOLDS = 5


@dataclass(frozen=True)
class Folds:
    """A split and its further cuts. `always_train`: groups (or clips) that never validate, for they alone hold a class,
    or (where the protocol itself parts a group) have clips on the validation side already.
    """

    splits: tuple[Split, ...]
    always_train: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.splits)


def cut(split: Split, *, folds: int = FOLDS) -> Folds:
    """The split and up to `folds` - 1 further cuts of its train and valid clips; test stays as it is.

    One group per fold while there are at most `folds` of them, else grouped folds stratified by class; clips without a
    group are groups of their own. Fewer movable groups than folds give fewer folds. Deterministic.
    """
    development = [*split.train, *split.valid]
    spread = Counter(label for unit in splits.units(development) for label in _labels(unit))
    validating = {clip.group for clip in split.valid if clip.group is not None}
    movable: list[list[Clip]] = []
    fixed: list[list[Clip]] = []
    for unit in splits.units(split.train):
        stays = unit[0].group in validating or any(spread[label] == 1 for label in _labels(unit))
        (fixed if stays else movable).append(unit)
    count = min(folds - 1, len(movable))
    dealt = [[unit] for unit in movable]
    if count < len(movable):
        dealt = splits.deal(movable, [1 / count] * count, [1] * count)
    held_out, kept = _taught(dealt, development)
    sides = [[clip for unit in fold for clip in unit] for fold in held_out if fold]
    return Folds(
        (split, *(_moved(split, side) for side in sides)), tuple(sorted(_name(unit) for unit in (*fixed, *kept)))
    )


def joined(split: Split) -> Split:
    """The split with its validation clips in train as well: for a recipe that was chosen and is trained once more."""
    both = sorted((*split.train, *split.valid), key=lambda clip: clip.key)
    return replace(split, train=tuple(both))


def of(split: Split, number: int) -> Split:
    """Fold `number` of the split. InputError: there is no such fold."""
    if number == 0:
        return split
    found = cut(split)
    if number >= len(found):
        raise InputError(f"There is no inner fold {number} here: {len(found)} folds, counted from 0.")
    return found.splits[number]


def _taught(
    dealt: Sequence[Sequence[list[Clip]]], development: Sequence[Clip]
) -> tuple[list[list[list[Clip]]], list[list[Clip]]]:
    """The folds without units whose class would then have no clip in train; and these units."""
    totals = Counter(label for clip in development for label in clip.labels)
    kept: list[list[Clip]] = []
    folds = []
    for fold in dealt:
        held = Counter(label for unit in fold for clip in unit for label in clip.labels)
        staying: list[list[Clip]] = []
        for unit in fold:
            ours = Counter(label for clip in unit for label in clip.labels)
            if any(held[label] == totals[label] for label in ours):  # then train would have none
                kept.append(unit)
                held.subtract(ours)
            else:
                staying.append(unit)
        folds.append(staying)
    return folds, kept


def _moved(split: Split, held_out: Sequence[Clip]) -> Split:
    """The split with other validation clips out of the same development clips."""
    keys = {clip.key for clip in held_out}
    train = sorted((clip for clip in (*split.train, *split.valid) if clip.key not in keys), key=lambda clip: clip.key)
    valid = sorted(held_out, key=lambda clip: clip.key)
    return replace(split, train=tuple(train), valid=tuple(valid))


def _labels(unit: Sequence[Clip]) -> set[str]:
    return {label for clip in unit for label in clip.labels}


def _name(unit: Sequence[Clip]) -> str:
    return unit[0].group if unit[0].group is not None else unit[0].key
