"""Gradient caching on the GPU: exact with dropout on, whichever attention kernel runs."""

import material
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from audioconfit import caching, encoders, losses, mining, randomness
from audioconfit.batches import Batch

pytestmark = pytest.mark.gpu
MATH, EFFICIENT, FLASH = SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION
CUDNN = SDPBackend.CUDNN_ATTENTION


def restless(name: str, device: torch.device) -> encoders.Encoder:
    """Dropout everywhere, in the attention too."""
    encoder = encoders.load(name).to(device).train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.2  # type: ignore[assignment]
    return encoder


def slopes(name: str, device: torch.device, *, bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient in pieces, with all pieces' activations kept, and again under other dropout."""
    encoder, whole = restless(name, device), next(material.batches(device, chunk_seconds=0.53).epoch(1))

    def embed(piece: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return encoder(piece.waveforms, piece.lengths).float()

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        return losses.supcon(embeddings, labels, miner=mining.multi_similarity)

    def taken(kept: bool, seed: int) -> Tensor:
        encoder.zero_grad()
        with randomness.private(seed, 0, device):
            if kept:
                loss(torch.cat([embed(piece) for piece in whole.pieces(3)]), whole.labels).backward()
            else:
                caching.backward(embed, loss, whole, micro_batch=3)
        return material.gradient(encoder)

    return taken(False, 1), taken(True, 1), taken(True, 2)


def check(name: str, kernel: SDPBackend, device: torch.device, *, bf16: bool) -> None:
    with sdpa_kernel([kernel]):  # a kernel that does not apply is an error, not another kernel
        cached, expected, other = slopes(name, device, bf16=bf16)
    off, drawn = material.shift(cached, expected), material.shift(other, expected)
    print(f"\n{name}, {kernel.name}: off by {off:.1e}; other dropout would be {drawn:.1e} off")
    # Kernels add up in another order from run to run: the last bits differ, not the draws.
    assert off < (1e-2 if bf16 else 1e-4)
    assert drawn > 5 * off
    assert drawn > 0.1


@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
def test_caching_is_exact_with_plain_attention(name: str, device: torch.device) -> None:
    check(name, MATH, device, bf16=False)


@pytest.mark.cuda_only
@pytest.mark.parametrize("name", ["wav2vec2-random", "wavlm-random"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_caching_is_exact_with_memory_efficient_attention(name: str, bf16: bool, device: torch.device) -> None:
    check(name, EFFICIENT, device, bf16=bf16)


@pytest.mark.cuda_only
def test_caching_is_exact_with_flash_attention(device: torch.device) -> None:
    """Which takes no additive mask, so not WavLM's bias, and no float32."""
    check("wav2vec2-random", FLASH, device, bf16=True)


@pytest.mark.cuda_only
@pytest.mark.parametrize("name", ["wav2vec2-random", "wavlm-random"])
def test_caching_is_exact_with_cudnn_attention(name: str, device: torch.device) -> None:
    with sdpa_kernel([CUDNN]):
        try:
            probe = torch.randn(2, 2, 32, 32, device=device, dtype=torch.bfloat16)
            nn.functional.scaled_dot_product_attention(probe, probe, probe)
        except RuntimeError as error:
            pytest.skip(f"cuDNN's attention does not run here: {error}")
    try:
        check(name, CUDNN, device, bf16=True)
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        pytest.skip(f"cuDNN's attention does not take {name}")
