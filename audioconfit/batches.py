"""Batches: random chunks of a corpus, drawn so that every anchor has a positive."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit import augment as augmenting
from audioconfit import chunks, labels
from audioconfit.audio import SAMPLE_RATE, SCALE, Recordings
from audioconfit.chunks import Chunks, Cut
from audioconfit.corpora import Clip
from audioconfit.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Chunks in [-1, 1) at 16 kHz. `lengths` in samples; None where every row is full and no mask is needed."""

    waveforms: Float[Tensor, "batch samples"]
    lengths: Int[Tensor, "batch"] | None
    labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"]

    def __len__(self) -> int:
        return len(self.waveforms)

    def pieces(self, rows: int) -> "list[Batch]":
        """The batch cut into consecutive batches of at most `rows` rows."""
        lengths = [None] * -(-len(self) // rows) if self.lengths is None else self.lengths.split(rows)
        parts = zip(self.waveforms.split(rows), lengths, self.labels.split(rows), strict=True)
        return [Batch(*part) for part in parts]


class Batches:
    """Balanced draws from clips: classes x clips x views, `batch_size` chunks over all ranks.

    As many classes as fit with two rows each share the rows as evenly as possible. Clips and classes are dealt
    without replacement until all were drawn; a class with fewer clips than its share gives several chunks of the same
    clip, so every anchor keeps a positive. With `views=2` each drawn clip gives two chunks. A chunk starts anywhere
    in its clip; a shorter clip is whole, padded with zeros. `augment` names what then changes each chunk (augment.py).

    An epoch is a pure function of (seed, number). Ranks draw the same rows and gather consecutive shares of them.
    """

    def __init__(
        self,
        waveforms: Recordings,
        clips: Sequence[Clip],
        classes: Sequence[str],
        *,
        batch_size: int,
        chunk_seconds: float,
        seed: int,
        views: int = 1,
        multi_label: bool = False,
        augment: Sequence[str] = (),
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 4:
            raise InputError(f"A batch of {batch_size} cannot hold two classes with a pair each; ask for 4 or more.")
        if views < 1 or batch_size % views:
            raise InputError(f"A batch of {batch_size} cannot hold {views} views of every clip; ask for a multiple.")
        if batch_size < world:
            raise InputError(f"A batch of {batch_size} leaves some of {world} workers without a row; ask for more.")
        if chunk_seconds <= 0:
            raise InputError(f"A chunk must be longer than 0 s, not {chunk_seconds}.")
        augmenting.check(augment)
        self.batch_size, self.views, self.seed, self.rank, self.world = batch_size, views, seed, rank, world
        self.augment = tuple(augment)
        self.chunk = round(chunk_seconds * SAMPLE_RATE)
        self._clips_by_class = _clips_by_class(clips, classes)
        if len(self._clips_by_class) < 2:
            raise InputError(f"Training needs clips of two classes or more; these {len(clips)} clips have one.")
        self.class_count = len(classes)
        self._clip_count = len(clips)

        keys = [clip.key for clip in clips]
        self._lengths = np.array([len(waveforms[key]) for key in keys])
        widest = int(min(self.chunk, self._lengths.max()))
        self._device = torch.device(device)
        self._chunks = chunks.of(waveforms, keys, self._lengths, longest=widest, device=str(device))
        self._labels = labels.Indexed(clips, classes, multi_label=multi_label, device=self._device)

    @property
    def shortest(self) -> int:
        """Samples of the shortest row, before augmentation."""
        return int(min(self.chunk, self._lengths.min()))

    def __len__(self) -> int:
        """Steps of an epoch, which visits as many chunks as there are clips."""
        return -(-self._clip_count // self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from step `start` on."""
        cuts = islice(self._cuts(number), start, None)
        for step, cut in enumerate(self._chunks.cut(cuts), start):
            batch = self._batch(cut)
            yield self._augmented(batch, number, step) if self.augment else batch

    def _cuts(self, number: int) -> Iterator[Cut]:
        share = np.array_split(np.arange(self.batch_size), self.world)[self.rank]
        for clips, positions in self._draw(number):
            lengths = self._lengths[clips]
            # No wider than the longest row: clips that are all shorter than a chunk need no padding for its sake.
            # Over all ranks' rows, so that an embedding takes the same way, masked or not, whichever rank computes
            # it.
            width = int(min(self.chunk, lengths.max()))
            full = bool((lengths >= width).all())
            starts = np.floor(positions * (np.maximum(lengths - width, 0) + 1)).astype(np.int64)
            yield Cut(clips[share], starts[share], np.minimum(lengths, width)[share], width, full)

    def _batch(self, cut: Chunks) -> Batch:
        waveforms, wanted = cut.samples.float() / SCALE, self._labels[cut.clips]
        if cut.full:
            return Batch(waveforms, None, wanted)
        inside = torch.arange(waveforms.shape[1], device=self._device) < cut.lengths[:, None]
        return Batch(waveforms * inside, cut.lengths, wanted)

    def _augmented(self, batch: Batch, number: int, step: int) -> Batch:
        seed = np.random.SeedSequence((self.seed, number, step, self.rank)).generate_state(1, np.uint64).item()
        draw = torch.Generator().manual_seed(seed >> 1)  # signed
        waveforms, lengths = augmenting.apply(batch.waveforms, batch.lengths, self.augment, draw)
        return Batch(waveforms, lengths, batch.labels)

    def heaviest(self) -> Batch:
        """The most that one of this rank's batches can ask of the memory, in zeros."""
        rows, width = -(-self.batch_size // self.world), int(min(self.chunk, self._lengths.max()))
        padded = bool((self._lengths < width).any())
        lengths = torch.full((rows,), width, device=self._device) if padded else None
        first = torch.zeros(rows, dtype=torch.long, device=self._device)
        return Batch(torch.zeros(rows, width, device=self._device), lengths, self._labels[first])

    def _draw(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Per step, the rows of all ranks: clip indices, and where in [0, 1) of its free play each chunk starts."""
        draw = np.random.default_rng((self.seed, number))
        pools = [_Deck(pool, draw) for pool in self._clips_by_class]
        classes = _Deck(range(len(pools)), draw)
        clips_per_batch, fewest = self.batch_size // self.views, -(-2 // self.views)
        count = min(len(pools), clips_per_batch // fewest)
        shares = [len(share) for share in np.array_split(np.arange(clips_per_batch), count)]
        for _ in range(len(self)):
            hands = [pools[pool].deal(share) for pool, share in zip(classes.deal(count), shares, strict=True)]
            yield np.concatenate(hands).repeat(self.views), draw.random(self.batch_size)


class _Deck:
    """Cards dealt without replacement; shuffled anew when all are out. A hand repeats a card only if there are too
    few of them.
    """

    def __init__(self, cards: Sequence[int], draw: np.random.Generator) -> None:
        self._cards, self._draw = np.array(cards), draw
        self._rest: deque[int] = deque()

    def deal(self, count: int) -> list[int]:
        hand: list[int] = []
        held: set[int] = set()
        while len(hand) < count:
            if not self._rest:
                self._rest = deque(self._draw.permutation(self._cards).tolist())
            fresh = next((card for card in self._rest if card not in held), self._rest[0])
            self._rest.remove(fresh)  # next to always the first
            hand.append(fresh)
            held.add(fresh)
        return hand


def _clips_by_class(clips: Sequence[Clip], classes: Sequence[str]) -> list[list[int]]:
    """Indices of the clips that carry each class, without the classes that no clip carries."""
    members: dict[str, list[int]] = {name: [] for name in classes}
    for index, clip in enumerate(clips):
        for label in clip.labels:
            if label not in members:
                raise InputError(f"{clip.key} is labelled {label!r}, which is none of {', '.join(classes)}.")
            members[label].append(index)
    return [indices for indices in members.values() if indices]
