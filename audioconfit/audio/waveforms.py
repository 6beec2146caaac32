"""Waveforms: a prepared corpus. Every clip as 16 kHz mono int16 in one memory-mapped file, and an index beside it."""

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int16
from numpy import ndarray

from audioconfit.audio.decoding import SAMPLE_RATE
from audioconfit.corpora.clips import Clip, Corpus
from audioconfit.errors import Damaged, InputError

FORMAT = 2  # of what prepare makes: a change of decoding or resampling raises it, and stores are made again
OPENED = (1, FORMAT)  # laid out alike: whoever has nothing but a finished store goes on with it
INDEX, SAMPLES = "index.json", "samples.i16"


@runtime_checkable
class Recordings(Protocol):
    """Int16 samples by the clip's key: Waveforms, or a dict of a few recordings."""

    def __getitem__(self, key: str, /) -> Int16[ndarray, " samples"]: ...


@dataclass(frozen=True)
class Fault:
    """A clip that is left out, and why: empty, silent, non-finite, too short: ..., not audio: ..., missing."""

    key: str
    reason: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waveforms:
    """The clips of a corpus that hold audio, and the audio."""

    corpus: Corpus  # without the clips in `faults`
    fingerprint: str  # of the recordings and all that is said of them; the same on every machine
    faults: tuple[Fault, ...]
    samples: Int16[ndarray, " total"]  # memory-mapped
    offsets: Mapping[str, tuple[int, int]]  # key -> first sample, number of samples
    sums: Mapping[str, int] = field(default_factory=dict)  # key -> CRC-32 of its samples; none of earlier versions
    folder: Path | None = None
    _seen: set[str] = field(default_factory=set, compare=False)  # whose samples were compared with their sum

    def __getitem__(self, key: str) -> Int16[ndarray, " samples"]:
        """The clip's samples, a view into the file: int16 / SCALE is the waveform in [-1, 1).

        Raises:
            Damaged: they are not those that were prepared. Each clip is compared once per process, 10 us per second.
        """
        first, length = self.offsets[key]
        samples = self.samples[first : first + length]
        if key in self.sums and key not in self._seen:
            if zlib.crc32(samples.data) != self.sums[key]:
                raise self._damaged(key)
            self._seen.add(key)
        return samples

    def damaged(self) -> list[str]:
        """The clips whose samples are not those that were prepared; reads all of them."""
        return [
            key for key, sum_ in self.sums.items() if zlib.crc32(self.samples[slice(*self._range(key))].data) != sum_
        ]

    def _range(self, key: str) -> tuple[int, int]:
        first, length = self.offsets[key]
        return first, first + length

    def _damaged(self, key: str) -> Damaged:
        """The store is taken for unfinished from now on, so that the next start decodes the recordings again."""
        assert self.folder is not None
        (self.folder / INDEX).unlink(missing_ok=True)
        return Damaged(
            f"The prepared recordings in {self.folder} are damaged: those of {key} are not what was decoded. Run the "
            "same command again: they are decoded again, and the sweep goes on."
        )

    def seconds(self, key: str) -> float:
        """The clip's duration."""
        return self.offsets[key][1] / SAMPLE_RATE

    @cached_property
    def total_seconds(self) -> float:
        """Duration of all clips together."""
        return sum(length for _, length in self.offsets.values()) / SAMPLE_RATE

    @cached_property
    def longest_seconds(self) -> float:
        """Of its clips."""
        return max(self.seconds(clip.key) for clip in self.corpus.clips)

    def at_least(self, samples: int) -> "Waveforms":
        """Without the clips under `samples` samples (a backbone's receptive field), which become faults."""
        short = {clip.key for clip in self.corpus.clips if self.offsets[clip.key][1] < samples}
        if not short:
            return self
        faults = [
            Fault(clip.key, f"too short: {self.seconds(clip.key):.4f} s of {samples / SAMPLE_RATE:.4f} s", clip.labels)
            for clip in self.corpus.clips
            if clip.key in short
        ]
        kept = replace(self.corpus, clips=tuple(clip for clip in self.corpus.clips if clip.key not in short))
        shorter = replace(self, corpus=kept, faults=(*self.faults, *faults))
        shorter.check_classes()
        return shorter

    def check_classes(self) -> None:
        """InputError if the faults took a class' last clip."""
        lost = sorted({label for fault in self.faults for label in fault.labels} - set(self.corpus.classes))
        if lost:
            reasons = [f"{fault.key} ({fault.reason})" for fault in self.faults if set(fault.labels) & set(lost)]
            shown = ", ".join(reasons[:5]) + (", ..." if len(reasons) > 5 else "")
            raise InputError(f"{self.corpus.name}: no clip of {', '.join(lost[:5])} holds audio: {shown}")


def load(folder: Path) -> Waveforms:
    """The finished store in `folder`; needs nothing but the folder. InputError if it is unfinished or damaged."""
    index = read_index(folder)
    if index is None:
        raise InputError(f"{folder} holds no finished store of waveforms; prepare the corpus again.")
    path, length = folder / SAMPLES, index["samples"]
    found = path.stat().st_size if path.exists() else 0
    if found != 2 * length:
        raise InputError(f"{path} has {found} bytes, its index says {2 * length}; remove {folder} and prepare again.")
    samples = np.memmap(path, np.int16, mode="r") if length else np.zeros(0, np.int16)
    clips = clips_of(index["clips"])
    copies = copies_of(clips, index.get("digests", ()))  # stores of earlier versions do not know
    corpus = Corpus(**{**index["corpus"], "notes": tuple(index["corpus"]["notes"])}, clips=clips, copies=copies)
    offsets, first = {}, 0
    for clip, count in zip(corpus.clips, index["lengths"], strict=True):
        offsets[clip.key] = (first, count)
        first += count
    faults = tuple(Fault(key, reason, tuple(labels)) for key, reason, labels in index["faults"])
    sums = dict(zip(offsets, index.get("sums", ()), strict=False))
    return Waveforms(corpus, index["fingerprint"], faults, samples, offsets, sums, folder)


def copies_of(clips: Sequence[Clip], digests: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The keys of recordings that are byte for byte the same, in files (or rows) of their own. Stretches of one file
    are none: where these belong the corpus has said.
    """
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip, digest in zip(clips, digests, strict=False):
        found[digest].append(clip)
    return tuple(
        tuple(clip.key for clip in same)
        for same in found.values()
        if len(same) > 1 and len({(clip.path, clip.row) for clip in same}) > 1
    )


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a finished store that can be opened, or None. It is written last: where it stands, all stands."""
    try:
        index = json.loads((folder / INDEX).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return index if index.get("format") in OPENED else None


def rows_of(clips: Iterable[Clip]) -> list[list[Any]]:
    """Clips as JSON rows, in the order of Clip's fields; paths absolute, since whoever reads them may be elsewhere."""
    return [
        [c.key, str(c.path.absolute()), c.labels, c.group, c.split, c.fold, c.start, c.end, c.row, c.name]
        for c in clips
    ]


def clips_of(rows: Iterable[list[Any]]) -> tuple[Clip, ...]:
    """The clips of `rows_of`."""
    return tuple(Clip(key, Path(path), tuple(labels), *others) for key, path, labels, *others in rows)
