"""What the encoder's own layers cost and gain: `pytest -m benchmark tests/benchmarks/test_encoder_speed.py -s`.

CPU seconds of one thread, both ways interleaved, medians of ratios: they hold on a machine that does other work too.
Two layers of the base models' shape, random weights. Two or three minutes.

On 2 shared cores, 2026-11-20, torch 2.11: WavLM through SDPA 1.03 / 1.05 / 1.19 at 2 / 5 / 10 s for features, 1.00 to
0.95 in training; a step with padding costs 1.23; no gradient towards the waveform 1.06 of the convolutions.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from audioconfit.encoders import Encoder
from audioconfit.encoders.layers import GatedAttention, ValidGroupNorm

pytestmark = pytest.mark.benchmark
SHAPE = {"num_hidden_layers": 2, "attention_dropout": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gain(before: Callable[[], object], after: Callable[[], object], *, repeats: int = 5) -> float:
    """How many times faster `after` is."""
    for run in (before, after):
        run()
    return statistics.median(seconds(before) / seconds(after) for _ in range(repeats))


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def infer(module: nn.Module, *inputs: Tensor) -> None:
    with torch.inference_mode():
        module.eval()(*inputs)


def train(module: nn.Module, *inputs: Tensor) -> None:
    module.train()
    outputs = module(*inputs)
    getattr(outputs, "last_hidden_state", outputs).sum().backward()


def test_wavlm_attention_through_sdpa() -> None:
    """At 2, 5 and 10 s; the transformer alone, since the convolutions are the same."""
    theirs = transformers.WavLMModel(transformers.WavLMConfig(**SHAPE, layerdrop=0.0)).encoder
    ours = transformers.WavLMModel(transformers.WavLMConfig(**SHAPE, layerdrop=0.0)).encoder
    ours.load_state_dict(theirs.state_dict())
    for module in ours.modules():
        if isinstance(module, WavLMAttention):
            module.__class__ = GatedAttention
    gains = {}
    for frames in (99, 249, 499):
        hidden = torch.randn(4, frames, 768)
        gains[frames] = [gain(partial(run, theirs, hidden), partial(run, ours, hidden)) for run in (infer, train)]
        print(
            f"\nWavLM through SDPA, {frames} frames: features {gains[frames][0]:.2f}x, training {gains[frames][1]:.2f}x"
        )
    assert gains[499][0] > 1.05
    assert min(training for _, training in gains.values()) > 0.9


def test_padding_costs_only_those_batches_that_hold_some() -> None:
    encoder = Encoder("wav2vec2", transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SHAPE)))
    waveforms, lengths = torch.randn(4, 32_000), torch.tensor([32_000, 30_000, 25_000, 20_000])
    plain, valid = nn.GroupNorm(512, 512), ValidGroupNorm(512, 512)
    hidden = torch.randn(4, 512, 6_399)

    def masked() -> None:
        valid.steps = torch.full((4,), 6_000)
        train(valid, hidden)

    layer = gain(masked, partial(train, plain, hidden))
    whole = gain(partial(train, encoder, waveforms, lengths), partial(train, encoder, waveforms))
    print(f"\nGroupNorm over valid steps costs {layer:.1f} plain ones; the whole step with padding {whole:.2f} without")
    assert whole < 1.3


def test_no_gradient_towards_the_waveform() -> None:
    with_gradient = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SHAPE)).feature_extractor
    without = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SHAPE)).feature_extractor
    without._requires_grad = False
    # A fresh tensor each time: transformers switches its gradient on in place.
    found = gain(lambda: train(with_gradient, torch.randn(4, 16_000)), lambda: train(without, torch.randn(4, 16_000)))
    print(f"\nNo gradient towards the waveform: {found:.3f}x of the convolutions' step")
    assert found > 1.0
