"""Features: the frozen embedding of each clip, and what stage 2 reads.

An embedding depends on its clip, the encoder and the chunk policy alone, never on what it was batched with. How an
encoder makes one is in encoders/encoder.py; what is learned from features is in probe.py.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Required, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from audioconfit import files, labels, ranks
from audioconfit.audio import SAMPLE_RATE, SCALE, Recordings
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.errors import InputError
from audioconfit.precision import Precision, autocast

# Of audio, padding included, that meet in one forward pass: speed and memory depend on it, embeddings do not.
BATCH_SECONDS = 64.0


@dataclass(frozen=True)
class Features:
    """One row per clip, float32 on the CPU. Labels are class indices; in a multi-label corpus one 0/1 row per clip."""

    embeddings: Float[Tensor, "clips *layers dim"]
    keys: tuple[str, ...]
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"]

    def last(self) -> "Features":
        """The last layer's embedding of each clip."""
        return self if self.embeddings.ndim == 2 else replace(self, embeddings=self.embeddings[:, -1])

    def mixed(self, layers: Float[Tensor, "layers"] | None) -> "Features":
        """One embedding per clip: the layers' mean by these weights. None: as they are."""
        return self if layers is None else replace(self, embeddings=mix(self.embeddings, layers))

    def save(self, path: Path) -> None:
        """As safetensors, the keys in its metadata."""
        embeddings = self.embeddings if self.embeddings.ndim == 2 else self.embeddings.half()
        tensors = {"embeddings": embeddings.contiguous(), "labels": self.labels.contiguous()}
        with files.whole(path) as temporary:
            save_file(tensors, temporary, metadata={"keys": json.dumps(self.keys)})


def mix(embeddings: Float[Tensor, "clips layers dim"], layers: Float[Tensor, "layers"]) -> Float[Tensor, "clips dim"]:
    """The mean of the layers' embeddings by these weights, which add up to 1."""
    return torch.einsum("l,nld->nd", layers, embeddings)


class How(TypedDict, total=False):
    """What `extract` hands to `embed`; there it is explained."""

    chunk_seconds: Required[float]
    middle_seconds: float | None
    every_layer: bool
    device: str | torch.device
    precision: Precision
    shared: bool
    alive: Callable[[], object]


def load(path: Path) -> Features:
    """What `Features.save` wrote."""
    with safe_open(path, framework="pt") as file:
        keys = tuple(json.loads(file.metadata()["keys"]))
        return Features(file.get_tensor("embeddings").float(), keys, file.get_tensor("labels"))


def dealt(parts: Sequence[Features], sides: Sequence[Sequence[Clip]]) -> list[Features]:
    """The rows of all parts, dealt out to other sides by the clips' keys. KeyError: a clip that no part has."""
    if [part.keys for part in parts] == [tuple(clip.key for clip in side) for side in sides]:
        return list(parts)
    rows = {key: row for row, key in enumerate(key for part in parts for key in part.keys)}
    embeddings, targets = torch.cat([part.embeddings for part in parts]), torch.cat([part.labels for part in parts])
    found = []
    for side in sides:
        keys = tuple(clip.key for clip in side)
        chosen = torch.tensor([rows[key] for key in keys])
        found.append(Features(embeddings[chosen], keys, targets[chosen]))
    return found


def extract(
    encoder: Encoder,
    waveforms: Recordings,
    clips: Sequence[Clip],
    *,
    classes: Sequence[str],
    multi_label: bool = False,
    **how: Unpack[How],
) -> Features:
    """The clips' features, in their order: `embed` with the clips' labels. Those of every layer are rounded to half
    precision, in which they are stored.

    InputError: as `embed`, and a label that is not among the classes.
    """
    targets = labels.tensor(clips, classes, multi_label=multi_label)
    keys = tuple(clip.key for clip in clips)
    embeddings = embed(encoder, waveforms, keys, **how)
    return Features(embeddings if embeddings.ndim == 2 else embeddings.half().float(), keys, targets)


def embed(
    encoder: Encoder,
    waveforms: Recordings,
    keys: Sequence[str],
    *,
    chunk_seconds: float,
    middle_seconds: float | None = None,
    every_layer: bool = False,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    shared: bool = False,
    alive: Callable[[], object] = lambda: None,
) -> Float[Tensor, "clips *layers dim"]:
    """The frozen embedding of each recording, float32 on the CPU.

    A recording longer than a chunk is cut into consecutive chunks, and its embedding is the mean over all their valid
    frames; a last piece shorter than the encoder's receptive field has no frame and is left out. With `middle_seconds`
    that much of the middle (a chunk at least) stands for the recording, which is cheap and does for a curve.
    `every_layer`: an embedding per layer. `precision`: as in training. `shared`: every rank calls this with the same
    weights and recordings; each embeds some of the batches, and all have all embeddings, the same as one rank's.
    `alive` is called after each batch, or after one of each rank.
    InputError: a recording or a chunk shorter than the receptive field. ArithmeticError: embeddings that are no finite
    numbers; a probe would fit something to them.
    """
    device = torch.device(device)
    chunk = round(chunk_seconds * SAMPLE_RATE)
    most = None if middle_seconds is None else max(chunk, round(middle_seconds * SAMPLE_RATE))
    pieces = _cut(encoder, waveforms, keys, chunk=chunk, most=most)
    embedded: list[tuple[list[int], Tensor]] = []  # read at the end: the CPU would wait for the GPU after each
    was_training, turn = encoder.training, ranks.world() if shared else 1
    encoder.to(device).eval()
    with torch.inference_mode(), autocast(device, precision):
        for number, rows in enumerate(_batches(pieces, budget=round(BATCH_SECONDS * SAMPLE_RATE))):
            if not shared or number % turn == ranks.rank():
                padded = _padded(waveforms, [pieces[row] for row in rows])
                embedded.append((rows, _embedded(encoder, *padded, device=device, every_layer=every_layer)))
            if (number + 1) % turn == 0:  # on every rank alike, for it may ask the others
                alive()
    encoder.train(was_training)
    pooled = torch.zeros(len(pieces), *([encoder.layer_count] if every_layer else []), encoder.dim)
    for rows, part in embedded:
        pooled[rows] = part.cpu()
    pooled = ranks.merged(pooled) if shared else pooled
    if broken := int((~pooled.isfinite()).flatten(1).any(1).sum()):
        raise ArithmeticError(
            f"{broken} of {len(pieces)} embeddings by {encoder.name} are no finite numbers: its weights have diverged"
            + (", or they are too large for fp16: choose precision fp32." if precision == "fp16" else ".")
        )
    return _mean_over_frames(encoder, pieces, pooled, len(keys))


def _embedded(
    encoder: Encoder,
    samples: Int[Tensor, "pieces samples"],
    lengths: Int[Tensor, "pieces"],
    *,
    device: torch.device,
    every_layer: bool,
) -> Float[Tensor, "pieces *layers dim"]:
    """On the device, which the CPU does not wait for."""
    full = bool((lengths == lengths[0]).all())  # then no mask: the same embeddings, and faster
    if device.type == "cuda":  # pinned, or the copy would wait too
        samples, lengths = samples.pin_memory(), lengths.pin_memory()
    samples, lengths = (part.to(device, non_blocking=True) for part in (samples, lengths))
    found: Tensor = encoder(samples.float() / SCALE, None if full else lengths, every_layer=every_layer)
    return found.float()


@dataclass(frozen=True)
class Piece:
    """The part of a clip that goes through the encoder at once."""

    clip: int
    key: str
    start: int
    length: int  # samples


def _cut(
    encoder: Encoder, waveforms: Recordings, keys: Sequence[str], *, chunk: int, most: int | None = None
) -> list[Piece]:
    shortest = encoder.receptive_field
    if chunk < shortest:
        raise InputError(f"A chunk of {chunk} samples is shorter than the {shortest} of {encoder.name}'s first frame.")
    pieces = []
    for number, key in enumerate(keys):
        total = len(waveforms[key])
        if total < shortest:
            raise InputError(f"Clip {key} has {total} samples; {encoder.name} takes {shortest}. Leave it out.")
        begin = 0 if most is None else max(0, (total - most) // 2)
        end = total if most is None else min(total, begin + most)
        for start in range(begin, end - shortest + 1, chunk):
            pieces.append(Piece(number, key, start, min(chunk, end - start)))
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
    encoder: Encoder, pieces: Sequence[Piece], pooled: Float[Tensor, "pieces *layers dim"], clips: int
) -> Float[Tensor, "clips *layers dim"]:
    """The mean over a clip's frames from its pieces' means, each of which weighs as many frames as it has."""
    owners = torch.tensor([piece.clip for piece in pieces], dtype=torch.long)
    frames = torch.tensor([encoder.frame_count(piece.length) for piece in pieces], dtype=torch.float64)
    rows = pooled.flatten(1)
    sums = torch.zeros(clips, rows.shape[1], dtype=torch.float64).index_add_(0, owners, rows * frames[:, None])
    means = sums / torch.zeros(clips, dtype=torch.float64).index_add_(0, owners, frames)[:, None]
    return means.float().unflatten(1, pooled.shape[1:])
