"""Features: the frozen embedding of each clip, and what stage 2 reads.

An embedding depends on its clip, the encoder and the chunk policy alone, never on what it was batched with. How an
encoder makes one is in encoders/encoder.py; what is learned from features is in probe.py.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from numpy import ndarray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from audioconfit import labels
from audioconfit.audio import SAMPLE_RATE, SCALE
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder


class Recordings(Protocol):
    """Int16 samples by the clip's key: Waveforms, or a dict of a few recordings."""

    def __getitem__(self, key: str, /) -> Int16[ndarray, " samples"]: ...


@dataclass(frozen=True)
class Features:
    """One row per clip, float32 on the CPU. Labels are class indices; in a multi-label corpus one 0/1 row per clip."""

    embeddings: Float[Tensor, "clips dim"]
    keys: tuple[str, ...]
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"]

    def save(self, path: Path) -> None:
        """As safetensors, the keys in its metadata; written under a temporary name and renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(descriptor)
        tensors = {"embeddings": self.embeddings.contiguous(), "labels": self.labels.contiguous()}
        save_file(tensors, temporary, metadata={"keys": json.dumps(self.keys)})
        os.replace(temporary, path)


def load(path: Path) -> Features:
    """What `Features.save` wrote."""
    with safe_open(path, framework="pt") as file:
        keys = tuple(json.loads(file.metadata()["keys"]))
        return Features(file.get_tensor("embeddings"), keys, file.get_tensor("labels"))


def extract(
    encoder: Encoder,
    waveforms: Recordings,
    clips: Sequence[Clip],
    *,
    classes: Sequence[str],
    chunk_seconds: float,
    multi_label: bool = False,
    middle_seconds: float | None = None,
    batch_seconds: float = 64.0,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Features:
    """The clips' features, in their order.

    A clip longer than a chunk is cut into consecutive chunks, and its embedding is the mean over all their valid
    frames; a last piece shorter than the encoder's receptive field has no frame and is left out. With
    `middle_seconds` so much of the middle (a chunk at least) stands for the clip, which is cheap and does for a curve.
    `batch_seconds` of audio, padding included, meet in one forward pass: it changes speed and memory only. `precision`
    "bf16": autocast.
    ValueError: a clip or a chunk shorter than the receptive field, a label that is not among the classes.
    """
    device = torch.device(device)
    chunk = round(chunk_seconds * SAMPLE_RATE)
    most = None if middle_seconds is None else max(chunk, round(middle_seconds * SAMPLE_RATE))
    pieces = _cut(encoder, waveforms, clips, chunk=chunk, most=most)
    targets = labels.tensor(clips, classes, multi_label=multi_label)
    pooled = torch.empty(len(pieces), encoder.dim)
    was_training = encoder.training
    encoder.to(device).eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for rows in _batches(pieces, budget=round(batch_seconds * SAMPLE_RATE)):
            samples, lengths = _padded(waveforms, [pieces[row] for row in rows])
            full = bool((lengths == lengths[0]).all())  # then no mask: the same embeddings, and faster
            embedded = encoder(samples.to(device).float() / SCALE, None if full else lengths.to(device))
            pooled[rows] = embedded.float().cpu()
    encoder.train(was_training)
    return Features(_mean_over_frames(encoder, pieces, pooled, len(clips)), tuple(clip.key for clip in clips), targets)


@dataclass(frozen=True)
class Piece:
    """The part of a clip that goes through the encoder at once."""

    clip: int
    key: str
    start: int
    length: int  # samples


def _cut(
    encoder: Encoder, waveforms: Recordings, clips: Sequence[Clip], *, chunk: int, most: int | None = None
) -> list[Piece]:
    shortest = encoder.receptive_field
    if chunk < shortest:
        raise ValueError(f"A chunk of {chunk} samples is shorter than the {shortest} of {encoder.name}'s first frame.")
    pieces = []
    for number, clip in enumerate(clips):
        total = len(waveforms[clip.key])
        if total < shortest:
            raise ValueError(f"Clip {clip.key} has {total} samples; {encoder.name} takes {shortest}. Leave it out.")
        begin = 0 if most is None else max(0, (total - most) // 2)
        end = total if most is None else min(total, begin + most)
        for start in range(begin, end - shortest + 1, chunk):
            pieces.append(Piece(number, clip.key, start, min(chunk, end - start)))
    return pieces


def _batches(pieces: Sequence[Piece], *, budget: int) -> Iterator[list[int]]:
    """Rows of similar length, longest first so that memory runs out at once or never; full chunks among themselves."""
    batch: list[int] = []
    longest = max((piece.length for piece in pieces), default=0)
    for row in sorted(range(len(pieces)), key=lambda row: -pieces[row].length):
        if batch:
            width = pieces[batch[0]].length
            ends_full = width == longest and pieces[row].length < longest
            if ends_full or (len(batch) + 1) * width > budget:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(
    waveforms: Recordings, pieces: Sequence[Piece]
) -> tuple[Int[Tensor, "batch samples"], Int[Tensor, "batch"]]:
    """Int16 samples, zero-padded to the first and longest piece, and the length of each."""
    samples = np.zeros((len(pieces), pieces[0].length), dtype=np.int16)
    for row, piece in zip(samples, pieces, strict=True):
        row[: piece.length] = waveforms[piece.key][piece.start : piece.start + piece.length]
    return torch.from_numpy(samples), torch.tensor([piece.length for piece in pieces])


def _mean_over_frames(
    encoder: Encoder, pieces: Sequence[Piece], pooled: Float[Tensor, "pieces dim"], clips: int
) -> Float[Tensor, "clips dim"]:
    """The mean over a clip's frames from its pieces' means, each of which weighs as many frames as it has."""
    owners = torch.tensor([piece.clip for piece in pieces], dtype=torch.long)
    frames = torch.tensor([encoder.frame_count(piece.length) for piece in pieces], dtype=torch.float64)
    sums = torch.zeros(clips, encoder.dim, dtype=torch.float64).index_add_(0, owners, pooled * frames[:, None])
    return (sums / torch.zeros(clips, dtype=torch.float64).index_add_(0, owners, frames)[:, None]).float()
