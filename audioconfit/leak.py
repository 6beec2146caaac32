"""Leak: how much a score owes to speakers, or source recordings, that stand in train and in test.

The same frozen features and the same probe, cross-validated twice: groups kept together, and clips dealt out one by one
as a careless split does. The difference is what such a split would have promised too much.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audioconfit import encoders, features, probe, splits
from audioconfit.audio import Waveforms
from audioconfit.corpora import Clip
from audioconfit.errors import InputError
from audioconfit.features import Features

FOLDS = 5
CHUNK_SECONDS, PROBE_LR = 2.0, 3e-3


@dataclass(frozen=True)
class Leak:
    """Accuracies, one per fold, with groups apart and with clips dealt out one by one."""

    groups: int
    apart: tuple[float, ...]
    mixed: tuple[float, ...]

    @property
    def gain(self) -> float:
        """What mixing groups adds to the mean accuracy."""
        return statistics.fmean(self.mixed) - statistics.fmean(self.apart)


def measure(waveforms: Waveforms, backbone: str) -> Leak:
    """Both scores of a prepared corpus by the frozen `backbone`; every clip is tested once in each.

    InputError: a corpus whose clips have no groups, or too few of them to hold any out.
    """
    corpus = waveforms.corpus
    units = splits.units(corpus.clips)
    groups = sum(unit[0].group is not None for unit in units)
    if groups < 2:
        raise InputError(
            f"{corpus.name} names {groups} speakers or source recordings; two or more can tell of a leak. Name them in "
            "a column 'group' or 'speaker' of its table."
        )
    found = features.extract(
        encoders.load(backbone),
        waveforms,
        corpus.clips,
        classes=corpus.classes,
        multi_label=corpus.multi_label,
        chunk_seconds=CHUNK_SECONDS,
    )
    count = min(FOLDS, len(units))
    alone = [[clip] for clip in corpus.clips]
    apart, mixed = (
        tuple(_accuracies(found, splits.deal(each, [1 / count] * count, [1] * count), corpus.classes))
        for each in (units, alone)
    )
    return Leak(groups, apart, mixed)


def _accuracies(found: Features, folds: Sequence[Sequence[list[Clip]]], classes: Sequence[str]) -> Iterator[float]:
    """Of each fold by a probe of the others."""
    sides = [[clip for unit in fold for clip in unit] for fold in folds if fold]
    for held_out in sides:
        rest = [clip for side in sides if side is not held_out for clip in side]
        train, test = features.dealt([found], [rest, held_out])
        yield probe.fit(train, train, classes=classes, lr=PROBE_LR).score(test).headline
