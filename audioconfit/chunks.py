"""Chunks: the stretches of a corpus that a batch asks for, as int16 on the device.

Where the samples of all clips fit into the device's free memory they lie there and a batch is one gather. Where they do
not, each batch is read from the memory-mapped store, one batch ahead of the training. Both cut the same samples.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int16
from numpy import ndarray
from torch import Tensor

from audioconfit import memory
from audioconfit.audio import Recordings

SHARE = 0.5  # of the free memory that a corpus may take: the model, its gradients and its activations need the rest
BLOCK_SAMPLES = 1 << 25  # copied to the device at once

Lengths = Int[ndarray, " clips"]  # samples of each clip
Read = tuple[Tensor, Tensor, bool]  # samples, then clips and lengths, both on the CPU; whether all rows are full

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """The rows of a batch: `lengths[i]` samples from sample `starts[i]` of clip `clips[i]` on, zeros up to `width`."""

    clips: Int[ndarray, " rows"]
    starts: Int[ndarray, " rows"]
    lengths: Int[ndarray, " rows"]
    width: int
    full: bool  # whether every row is, on all ranks


@dataclass(frozen=True)
class Chunks:
    """A Cut on the device. What lies behind a row's length is not the row's: zeros, or the next clip's samples."""

    samples: Int16[Tensor, "rows width"]
    clips: Int[Tensor, "rows"]
    lengths: Int[Tensor, "rows"]
    full: bool


class Resident:
    """All clips in one tensor on the device: decoded, resampled and copied once, which is what a GPU needs."""

    def __init__(
        self, recordings: Recordings, keys: Sequence[str], lengths: Lengths, longest: int, device: str
    ) -> None:
        self.offsets = np.concatenate([[0], lengths.cumsum()[:-1]])
        # The tail lets a chunk start at the last sample of the last clip.
        self.samples = torch.zeros(int(lengths.sum()) + longest, dtype=torch.int16, device=device)
        for first, samples in _blocks(recordings, keys):
            self.samples[first : first + len(samples)] = torch.from_numpy(samples).to(device)

    def cut(self, cuts: Iterable[Cut]) -> Iterator[Chunks]:
        """Each of them by one gather."""
        device = self.samples.device
        for cut in cuts:
            rows = torch.from_numpy(np.stack([cut.clips, self.offsets[cut.clips] + cut.starts, cut.lengths]))
            if device.type == "cuda":  # one copy a batch, from pinned memory, so that the CPU need not wait for the GPU
                rows = rows.pin_memory()
            clips, first, lengths = rows.to(device, non_blocking=True).unbind()
            # A view with one row per possible start: the index is one number per chunk instead of one per sample.
            yield Chunks(self.samples.unfold(0, cut.width, 1)[first], clips, lengths, cut.full)


class Mapped:
    """Each batch from the recordings, which are read again and again: bounded memory for a corpus of any size."""

    def __init__(self, recordings: Recordings, keys: Sequence[str], device: str) -> None:
        self.recordings, self.keys, self.device = recordings, keys, torch.device(device)

    def cut(self, cuts: Iterable[Cut]) -> Iterator[Chunks]:
        """Each of them while the one before is at work."""
        with ThreadPoolExecutor(1, "chunks") as reader:
            ahead: deque[Future[Read]] = deque()
            for cut in cuts:
                ahead.append(reader.submit(self._read, cut))
                if len(ahead) > 1:
                    yield self._to_device(ahead.popleft().result())
            if ahead:
                yield self._to_device(ahead.popleft().result())

    def _read(self, cut: Cut) -> Read:
        pinned = self.device.type == "cuda"
        samples = torch.zeros(len(cut.clips), cut.width, dtype=torch.int16, pin_memory=pinned)
        for row, clip, start, length in zip(samples.numpy(), cut.clips, cut.starts, cut.lengths, strict=True):
            row[:length] = self.recordings[self.keys[clip]][start : start + length]
        rows = torch.from_numpy(np.stack([cut.clips, cut.lengths]))
        return samples, rows.pin_memory() if pinned else rows, cut.full

    def _to_device(self, read: Read) -> Chunks:
        samples, rows = (part.to(self.device, non_blocking=True) for part in read[:2])
        clips, lengths = rows.unbind()
        return Chunks(samples, clips, lengths, read[2])


def of(
    recordings: Recordings, keys: Sequence[str], lengths: Lengths, *, longest: int, device: str
) -> Resident | Mapped:
    """Whichever the free memory allows. `longest`: samples of the longest chunk that will be asked for."""
    needed, free = 2 * (int(lengths.sum()) + longest), memory.free_bytes(torch.device(device))
    if needed <= SHARE * free:
        return Resident(recordings, keys, lengths, longest, device)
    log.warning(
        "The clips take %.1f GB, more than half of the %.1f GB that are free on %s: each batch is read from disk.",
        needed / 1e9,
        free / 1e9,
        device,
    )
    return Mapped(recordings, keys, device)


def _blocks(recordings: Recordings, keys: Sequence[str]) -> Iterator[tuple[int, Int16[ndarray, " samples"]]]:
    """The clips one behind the other, several at a time, with the place of each first sample."""
    first, held, size = 0, [], 0
    for number, key in enumerate(keys):
        samples = recordings[key]
        held.append(samples)
        size += len(samples)
        if size >= BLOCK_SAMPLES or number == len(keys) - 1:
            yield first, np.concatenate(held)
            first, held, size = first + size, [], 0
