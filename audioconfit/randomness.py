"""Randomness: the global streams that layers draw from, as a value that can be kept, replayed and stored.

Dropout and LayerDrop draw from torch's streams, SpecAugment from NumPy's; none of them takes a generator. So a
training run makes the streams its own for as long as it lasts (`private`), and leaves them as it found them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]  # tensors and plain numbers only: torch.load(weights_only=True) reads it back


def state(device: torch.device) -> State:
    """Where the streams stand: torch's on the CPU and on `device`, NumPy's."""
    numpy: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = numpy
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
    }


def restore(state: State, device: torch.device) -> None:
    """Put the streams back to where they stood."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), *rest))


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within, the streams stand afterwards where they stood before."""
    before = state(device)
    try:
        yield
    finally:
        restore(before, device)


@contextmanager
def private(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """Within, the streams begin from (seed, rank); afterwards they are as before."""
    with kept(device):
        torch_seed, numpy_seed = np.random.SeedSequence((seed, rank)).generate_state(2).tolist()
        torch.default_generator.manual_seed(torch_seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(torch_seed)
        np.random.seed(numpy_seed)
        yield
