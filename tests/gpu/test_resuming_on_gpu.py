"""Training on the GPU goes on from a checkpoint, also from the CPU's and back, and repeats bit for bit when told to."""

from pathlib import Path
from typing import Any

import material
import pytest
import torch
from torch import Tensor

from audioconfit import encoders, pairtune
from audioconfit.training import Settings

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def trained(device: torch.device, *, stop_after: int = 0, name: str = "wav2vec2-random", **settings: Any) -> Tensor:
    """Weights after PairTune of three epochs, or of fewer."""
    encoder = encoders.load(name)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = settings.get("dropout", 0.0)
    settings.pop("dropout", None)
    seconds = settings.pop("seconds", (0.6, 0.6))
    finished = pairtune.train(
        encoder,
        material.batches(device, seconds=seconds),
        Settings(
            report=lambda epoch, metrics: not metrics or epoch != stop_after,
            **{"lr": 1e-4, "epochs": 3, "seed": 0, "device": device, "micro_batch": None} | settings,
        ),
    )
    assert finished == (stop_after == 0)
    return material.weights(encoder)


@pytest.mark.parametrize("begins_on_cpu", [True, False], ids=["from the CPU", "to the CPU"])
def test_a_run_goes_on_on_another_device(begins_on_cpu: bool, device: torch.device, tmp_path: Path) -> None:
    first, then = (CPU, device) if begins_on_cpu else (device, CPU)
    started, undisturbed = material.weights(encoders.load("wav2vec2-random")), trained(CPU)
    trained(first, stop_after=2, checkpoint=tmp_path / "run.pt")
    resumed = trained(then, checkpoint=tmp_path / "run.pt")
    travelled = undisturbed - started
    # Adam divides by the size of a gradient: where that is next to nothing, its rounding decides a whole step.
    print(f"\nthe way from the first weights to the last is {material.shift(resumed - started, travelled):.1e} off")
    assert material.shift(resumed - started, travelled) < 0.1


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(
    precision: Any, micro_batch: Any, device: torch.device, tmp_path: Path, deterministic: None
) -> None:
    settings = {"precision": precision, "micro_batch": micro_batch, "dropout": 0.2}
    undisturbed = trained(device, **settings)
    trained(device, stop_after=1, checkpoint=tmp_path / "run.pt", **settings)
    assert torch.equal(trained(device, checkpoint=tmp_path / "run.pt", **settings), undisturbed)


@pytest.mark.parametrize("seconds", [(0.6, 0.6), (0.2, 0.6)], ids=["full", "padded"])
@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
def test_the_same_seed_gives_the_same_weights(
    name: str, seconds: tuple[float, float], device: torch.device, deterministic: None
) -> None:
    first, second = (trained(device, name=name, dropout=0.2, seconds=seconds) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, trained(device, name=name, dropout=0.2, seconds=seconds, seed=1))


@pytest.mark.cuda_only
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_without_the_flag_runs_stay_close(precision: Any, device: torch.device) -> None:
    """What a user gets who asks torch for nothing: printed whether it repeats, bounded how far it drifts."""
    started = material.weights(encoders.load("wav2vec2-random"))
    first, second = (trained(device, precision=precision) for _ in range(2))
    drift = material.shift(second - started, first - started)
    print(f"\n{precision}: {'bit for bit the same' if torch.equal(first, second) else f'{drift:.1e} apart'}")
    assert drift < 0.2
