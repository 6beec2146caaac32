"""Real steps of the published architectures, with random weights."""

from typing import Any

import material
import pytest
import torch
from torch import nn

from audioconfit import pairtune
from audioconfit.training import Settings

pytestmark = [pytest.mark.gpu, pytest.mark.cuda_only]


@pytest.mark.parametrize("seconds", [(1.2, 1.2), (0.5, 1.2)], ids=["full", "padded"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", material.FULL_SIZE)
def test_a_step_trains_every_weight(
    name: str, precision: Any, seconds: tuple[float, float], device: torch.device
) -> None:
    encoder = material.full_size(name, device)
    before = {key: parameter.detach().clone() for key, parameter in encoder.named_parameters()}
    batches = material.batches(device, seconds=seconds, chunk_seconds=1.0, batch_size=24)
    settings = {"lr": 1e-4, "epochs": 2, "seed": 0, "device": device, "precision": precision}
    torch.cuda.reset_peak_memory_stats()
    told = material.told(pairtune.train, encoder, batches, **settings)
    print(f"\n{name} {precision}: losses {told}, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    still = {key for key, parameter in encoder.named_parameters() if torch.equal(parameter, before[key])}
    # The first embedding of WavLM's bias that no distance reaches, and what only SpecAugment or a masked key reads.
    assert still <= {key for key in before if key.endswith(("masked_spec_embed", "k_proj.bias"))}
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-base", "wavlm-base"])
def test_an_embedding_is_that_of_the_cpu(name: str, device: torch.device) -> None:
    encoder = material.full_size(name, device).eval()
    waveforms = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    lengths = torch.tensor([16_000, 12_000, 6_000])
    with torch.inference_mode():
        found = [encoder(waveforms.to(device)), encoder(waveforms.to(device), lengths.to(device))]
        encoder.to("cpu")
        expected = [encoder(waveforms), encoder(waveforms, lengths)]
    shifts = [material.shift(*pair) for pair in zip(found, expected, strict=True)]
    print(f"\n{name}: {shifts[0]:.1e} off, padded {shifts[1]:.1e}")
    assert max(shifts) < 1e-4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_padding_moves_no_embedding(precision: torch.dtype, device: torch.device) -> None:
    encoder = material.full_size("wavlm-base", device).eval()
    waveforms = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)).to(device) / 10
    lengths = torch.tensor([32_000, 16_000], device=device)
    with torch.inference_mode(), torch.autocast("cuda", precision, enabled=precision == torch.bfloat16):
        together, alone = encoder(waveforms, lengths)[1], encoder(waveforms[1:, :16_000])[0]
    found = material.shift(together, alone)
    print(f"\n{precision}: padding moves the embedding by {found:.1e}")
    assert found < (1e-5 if precision == torch.float32 else 3e-2)


def test_head_and_loss_are_outside_autocast(device: torch.device) -> None:
    seen = []
    encoder = material.full_size("wav2vec2-base", device, num_hidden_layers=1)
    projector = nn.Linear(encoder.dim, 8)
    projector.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    from audioconfit import losses, training

    batches = material.batches(device, chunk_seconds=0.5)
    training.fit(
        encoder, projector, losses.supcon, batches, Settings(lr=1e-4, epochs=1, seed=0, device=device, precision="bf16")
    )
    assert set(seen) == {(torch.float32, torch.float32)}
