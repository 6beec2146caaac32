"""Encoders through torch.compile. In a process of their own: it must see our functions as they are, without the checks
of shapes around them (tests/support/shapes.py).
"""

import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from tiny_encoders import ARCHITECTURES, encoder_of, losses_of, noise, shift

from audioconfit import encoders

pytestmark = pytest.mark.slow


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a fresh process, where no import hook is set."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_quietly, function, arguments).result()


def _quietly(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's own
        return function(*arguments)


def shifts_by_compiling(architecture: str) -> list[float]:
    """How far one graph's embeddings are from the encoder's own, without and with padding."""
    encoder = encoder_of(architecture)
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 9_000])
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        return [shift(compiled(waveforms, given), encoder(waveforms, given)) for given in (None, lengths)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder_compiles_into_one_graph(architecture: str) -> None:
    assert max(apart(shifts_by_compiling, architecture)) < 1e-6


def losses(compile: bool) -> list[float]:
    return losses_of(encoders.load("wav2vec2-random"), epochs=1, compile=compile)


def test_a_compiled_encoder_learns_the_same() -> None:
    assert apart(losses, True) == pytest.approx(losses(False), rel=1e-3)
