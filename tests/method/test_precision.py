"""Precision: what a device is trained in, and fp16's scaled loss, which runs on a CPU as it would on a GPU."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import Listener, batches, weights
from tiny_encoders import losses_of
from torch import Tensor, nn

from audioconfit import caching, encoders, losses, pairtune, precision
from audioconfit.batches import Batch
from audioconfit.training import Diverged, Settings, _Run


def run_of(network: nn.Module) -> tuple[_Run, Batch]:
    """A run whose loss is the mean of what the network says, and a batch for it; both encoder and loss are linear."""

    class Head(nn.Identity):
        every_layer = False

    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
            return self.network(waveforms)

    run = _Run(Heard(), Head(), lambda outputs, labels: outputs.mean(), Settings(1e-2, 1, 0, precision="fp16"))
    run.micro_batch = 4
    return run, Batch(torch.ones(4, 3), None, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("bf16", "capability", "expected"), [(True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "fp32")]
)
def test_a_gpu_without_bf16_computes_in_fp16_where_it_has_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    assert precision.best("cuda") == expected
    assert precision.best("cpu") == "fp32"
    refused = contextlib.nullcontext() if bf16 else pytest.raises(ValueError, match=f"choose precision {expected}")
    with refused:
        precision.check("bf16", torch.device("cuda"))


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved() -> None:
    run, batch = run_of(nn.Linear(3, 1))
    calm = weights(run.model)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17)  # 4 rows of a quarter: above 65504, fp16's largest
    run.step(batch)
    assert torch.equal(weights(run.model), calm)
    assert run.scaler.get_scale() == 2.0**16
    run.step(batch)  # 65536 is too much as well
    run.step(batch)
    # Adam's first step has the length of the rate: those before it have left no trace in its moments.
    assert run.scaler.get_scale() == 2.0**15
    torch.testing.assert_close(calm - weights(run.model), torch.full_like(calm, 1e-2))


def test_gradients_too_small_for_fp16_arrive_scaled() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1e-4)
    run, batch = run_of(network)
    run.loss = lambda outputs, labels: 1e-4 * outputs.mean()  # 1e-8 in the lower layer, 6e-8 is fp16's least
    run.step(batch)
    assert run.scaler.get_scale() == 2.0**16  # not left out
    moments = run._optimiser.state[network[0].weight]["exp_avg"]
    torch.testing.assert_close(moments, torch.full_like(moments, 0.1 * 1e-8), rtol=1e-2, atol=0)


def test_fp16_trains_as_fp32_does_and_tells_the_loss_unscaled() -> None:
    started, ways, told = weights(encoders.load("wav2vec2-random")), [], []
    for name in ("fp16", "fp32"):
        encoder = encoders.load("wav2vec2-random")
        told.append(losses_of(encoder, epochs=2, precision=name))
        ways.append(weights(encoder) - started)
    assert told[0] == pytest.approx(told[1], rel=0.05)
    assert torch.nn.functional.cosine_similarity(ways[0], ways[1], dim=0) > 0.7


def test_gradient_caching_scales_alike() -> None:
    draw = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(8, 4, generator=draw), None, torch.arange(8) % 2)
    found = []
    for rows in (8, 3):
        layer = nn.Linear(4, 6, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))

        def embed(piece: Batch, layer: nn.Linear = layer) -> Tensor:
            return layer(piece.waveforms)

        value = caching.backward(embed, losses.supcon, batch, micro_batch=rows, scaled=lambda value: 1024 * value)
        found.append((value.item(), layer.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])
    assert found[0][1].norm() > 100


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_resumed_run_has_the_scale_that_it_left(tmp_path: Path, micro_batch: int | None) -> None:
    how: dict[str, Any] = {"precision": "fp16", "dropout": 0.2, "micro_batch": micro_batch}
    undisturbed = small_runs.tuned(tmp_path / "whole.pt", overflows=True, **how)
    small_runs.tuned(tmp_path / "run.pt", overflows=True, answers=lambda told: told < 2, **how)
    resumed = small_runs.tuned(tmp_path / "run.pt", **how)
    assert torch.equal(resumed["weights"], undisturbed["weights"])
    assert resumed["scale"] == undisturbed["scale"]
    assert resumed["scale"]["scale"] < 2.0**16  # where a run without a checkpoint begins


def test_a_gradient_that_overflows_at_every_scale_ends_the_run() -> None:
    encoder = Listener(dropout=0.0)
    encoder.weight.register_hook(lambda gradient: gradient * math.inf)
    # 2^16 is halved 17 times until it is below 1, five times an epoch.
    with pytest.raises(
        Diverged, match=r"The gradient became inf in epoch 4, step 2; try a lower learning rate, or pre"
    ):
        pairtune.train(encoder, batches(), Settings(lr=1e-2, epochs=20, seed=0, precision="fp16"))
    with pytest.raises(Diverged, match=r"epoch 3, step 5; try a lower learning rate, or precision fp32\.$"):
        pairtune.train(encoder, batches(), Settings(lr=1e-2, epochs=3, seed=0, precision="fp16"))  # ends before that


def test_a_run_of_fp16_that_took_one_step_ends_well() -> None:
    encoder, seen = Listener(dropout=0.0), 0

    def once(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return gradient if seen == 3 else gradient * math.inf

    encoder.weight.register_hook(once)
    assert pairtune.train(encoder, batches(), Settings(lr=1e-2, epochs=1, seed=0, precision="fp16"))
