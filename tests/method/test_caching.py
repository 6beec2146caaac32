"""Gradient caching: the same gradient as all pieces kept at once, whatever the encoder draws on the way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audioconfit import caching, encoders, losses, mining, randomness
from audioconfit.batches import Batch

CPU = torch.device("cpu")


def batch(rows: int = 10, seconds: float = 0.5) -> Batch:
    draw = torch.Generator().manual_seed(0)
    waveforms = torch.randn(rows, round(seconds * 16_000), generator=draw, dtype=torch.float64) / 10
    return Batch(waveforms, None, torch.arange(rows) % 3)


def restless_encoder(name: str) -> encoders.Encoder:
    """A tiny encoder in which all that can be random is: dropout everywhere, LayerDrop, SpecAugment."""
    encoder = encoders.load(name, spec_augment=True, layer_drop=True).double().train()
    encoder.model.config.layerdrop = 0.3
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return encoder


def gradient(encoder: nn.Module, backward: Callable[[], object]) -> Tensor:
    """What `backward` adds to the weights' gradient when the random streams begin from 1."""
    encoder.zero_grad()
    with randomness.private(1, 0, CPU):
        backward()
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None])


def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    return losses.supcon(embeddings, labels, miner=mining.multi_similarity)


@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_cached_is_exact_with_dropout_layer_drop_and_spec_augment(name: str, micro_batch: int) -> None:
    encoder, whole = restless_encoder(name), batch()

    def embed(piece: Batch) -> Tensor:
        return encoder(piece.waveforms, piece.lengths)

    def plain() -> None:
        embeddings = torch.cat([embed(piece) for piece in whole.pieces(micro_batch)])
        loss(embeddings, whole.labels).backward()

    cached = gradient(encoder, lambda: caching.backward(embed, loss, whole, micro_batch=micro_batch))
    expected = gradient(encoder, plain)
    assert (cached - expected).norm() / expected.norm() < 1e-12


def test_without_replay_the_gradient_would_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, whole = restless_encoder("wav2vec2-random"), batch()

    def cached() -> None:
        caching.backward(lambda piece: encoder(piece.waveforms), loss, whole, micro_batch=4)

    exact = gradient(encoder, cached)
    monkeypatch.setattr(randomness, "restore", lambda state, device: None)
    assert (gradient(encoder, cached) - exact).norm() / exact.norm() > 0.1


def test_cached_and_plain_report_the_same_loss() -> None:
    encoder, whole = encoders.load("wav2vec2-random").double(), batch()
    values = [
        caching.backward(lambda piece: encoder(piece.waveforms), loss, whole, micro_batch=rows) for rows in (10, 3)
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)


def test_padded_batches_are_cut_with_their_lengths() -> None:
    whole = Batch(torch.zeros(5, 8), torch.tensor([8, 7, 6, 5, 4]), torch.arange(5))
    pieces = whole.pieces(2)
    assert [piece.lengths.tolist() for piece in pieces] == [[8, 7], [6, 5], [4]]
    assert [piece.labels.tolist() for piece in pieces] == [[0, 1], [2, 3], [4]]


def test_rows_that_fit_are_found_by_what_one_row_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    # tanh keeps its output for the backward pass, the product its input: 2 x 1000 doubles a row, and no weights.
    layer = nn.Linear(1000, 1000, bias=False).double()
    whole = Batch(torch.zeros(64, 1000, dtype=torch.float64), None, torch.zeros(64, dtype=torch.long))

    def embed(piece: Batch) -> Tensor:
        return layer(piece.waveforms * 1.0).tanh()

    monkeypatch.setattr(caching, "CPU_ACTIVATION_BYTES", 20 * 16_000)
    assert caching.rows_that_fit(embed, whole, layer.parameters()) == 20
    monkeypatch.setattr(caching, "CPU_ACTIVATION_BYTES", 1)
    assert caching.rows_that_fit(embed, whole, layer.parameters()) == 1
    monkeypatch.setattr(caching, "CPU_ACTIVATION_BYTES", 1 << 30)
    assert caching.rows_that_fit(embed, whole, layer.parameters()) == 64


def test_finding_what_fits_leaves_gradients_and_random_streams_alone() -> None:
    encoder = restless_encoder("wav2vec2-random")
    before = torch.get_rng_state(), np.random.get_state()[1]
    caching.rows_that_fit(lambda piece: encoder(piece.waveforms), batch(), encoder.parameters())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert all(parameter.grad is None for parameter in encoder.parameters())
