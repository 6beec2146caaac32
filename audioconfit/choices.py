"""Choices: the batch sizes and chunk durations that suit a corpus. A sweep searches them; `fit` takes the largest."""

import statistics

from audioconfit.audio import Waveforms
from audioconfit.splits import Split

# Longer chunks than 10 s cost more than they tell; shorter clips than the menu's first are taken whole.
CHUNK_MENU_SECONDS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
BATCH_MENU = (16, 32, 64)


def chunk_seconds(waveforms: Waveforms, split: Split) -> tuple[float, ...]:
    """The four longest durations of the menu that half of the training clips fill; else the shortest clip's."""
    seconds = [waveforms.seconds(clip.key) for clip in split.train]
    typical = statistics.median(seconds)
    fitting = tuple(chunk for chunk in CHUNK_MENU_SECONDS if chunk <= typical + 1e-6)
    return fitting[-4:] or (round(min(seconds), 3),)


def batch_sizes(split: Split) -> tuple[int, ...]:
    """The batch sizes of the menu that do not exceed the training clips; a tiny corpus gets the smallest."""
    fitting = tuple(size for size in BATCH_MENU if size <= len(split.train))
    return fitting or BATCH_MENU[:1]
