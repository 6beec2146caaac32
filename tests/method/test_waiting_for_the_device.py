"""An epoch on a device tells the host nothing before its end: it runs on torch's `meta` device, whose tensors have no
numbers to read. Whatever would make the host wait for a GPU (`.item()`, `.all()` in an `if`, a loss that is read) is an
error there, and what goes to the device is counted. tests/gpu/test_waiting.py asks CUDA itself.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audioconfit import encoders, losses, mining, training
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.pairtune import Projector
from audioconfit.training import Settings

STEPS, ROWS = 2, 4


class Copies(TorchDispatchMode):
    """The shapes of what goes from the host to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if "_to_copy" in str(function) and args[0].device.type == "cpu" and found.device.type == "meta":
            self.shapes.append(tuple(args[0].shape))
        return found


def batches(seconds: float) -> Batches:
    """Clips of 0.4 to 0.5 s: chunks of 0.3 s are full, chunks of 0.5 s padded."""
    recordings = {f"{number}": np.zeros(8000 - 800 * (number % 3), np.int16) for number in range(STEPS * ROWS)}
    clips = [Clip(key, Path(key), ("ab"[int(key) % 2],)) for key in recordings]
    return Batches(recordings, clips, ("a", "b"), batch_size=ROWS, chunk_seconds=seconds, seed=0, device="meta")


@pytest.mark.parametrize(
    ("name", "seconds", "micro_batch"),
    [("hubert-random", 0.3, None), ("wav2vec2-random", 0.5, 3), ("wavlm-random", 0.5, None)],
)
def test_nothing_is_read_before_the_end_of_an_epoch(
    name: str, seconds: float, micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # refuses the meta device
    monkeypatch.setattr(training, "HEARTBEAT_SECONDS", 1e9)
    encoder, drawn, taken = encoders.load(name), batches(seconds), 0

    def loss(projected: Tensor, labels: Tensor) -> Tensor:
        nonlocal taken
        taken += 1
        return losses.supcon(projected, labels, miner=mining.multi_similarity)

    settings = Settings(lr=1e-3, epochs=1, seed=0, device="meta", micro_batch=micro_batch)
    with Copies() as copies, pytest.raises(NotImplementedError, match="meta tensor") as raised:
        training.fit(encoder, Projector(encoder.dim, 16), loss, drawn, settings)
    assert [frame.name for frame in raised.traceback if frame.path.name == "training.py"][-1] == "_read"
    assert taken == STEPS
    of_batches = [shape for shape in copies.shapes if shape == (3, ROWS)]
    assert len(of_batches) == STEPS, "clips, starts and lengths of a batch are one copy"
    moved = sum(1 for _ in encoder.parameters()) + sum(1 for _ in encoder.buffers()) + 2  # and the projector's
    assert len(copies.shapes) - moved == STEPS, "a step copies something else to the device"
