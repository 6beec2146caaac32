"""What does not fit the GPU's memory: `rows_that_fit` finds what does, and one chunk that does not is an error."""

from collections.abc import Iterator

import material
import pytest
import torch
from torch import Tensor

from audioconfit import caching, encoders, pairtune
from audioconfit.batches import Batch
from audioconfit.training import Settings

pytestmark = [pytest.mark.gpu, pytest.mark.cuda_only]
ROWS, SECONDS = 64, 4.0


@pytest.fixture
def total(device: torch.device) -> Iterator[int]:
    """The GPU's bytes; a limit that the test sets ends with it."""
    torch.cuda.empty_cache()
    yield torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0)


def encoder_on(device: torch.device) -> encoders.Encoder:
    return encoders.load("wav2vec2-random").to(device).train()


def peak(encoder: encoders.Encoder, batch: Batch) -> int:
    """Bytes of activations of a forward and backward pass."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    encoder(batch.waveforms).sum().backward()
    encoder.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated() - before


def limit(total: int, beyond: int) -> None:
    """Leave `beyond` bytes beside what is allocated and the headroom that rows_that_fit wants."""
    torch.cuda.empty_cache()
    allowed = (torch.cuda.memory_reserved() + beyond) / (1 - caching.GPU_HEADROOM)
    torch.cuda.set_per_process_memory_fraction(allowed / total)


def heaviest(device: torch.device) -> Batch:
    return silence(ROWS, round(SECONDS * 16_000), device)


def silence(rows: int, samples: int, device: torch.device) -> Batch:
    labels = torch.zeros(rows, dtype=torch.long, device=device)
    return Batch(torch.zeros(rows, samples, device=device), None, labels)


def test_half_the_memory_takes_fewer_rows(device: torch.device, total: int) -> None:
    encoder, batch = encoder_on(device), heaviest(device)

    def embed(piece: Batch) -> Tensor:
        return encoder(piece.waveforms)

    needed = peak(encoder, batch)
    unlimited = caching.rows_that_fit(embed, batch, encoder.parameters())
    limit(total, needed // 2)
    before = torch.cuda.memory_allocated()
    rows = caching.rows_that_fit(embed, batch, encoder.parameters())
    print(f"\n{needed >> 20} MiB for {ROWS} rows; with half of that {rows} rows at once")
    assert unlimited == ROWS
    assert ROWS // 8 <= rows < ROWS
    assert torch.cuda.memory_allocated() == before, "something of the failed trials is still held"
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_not_even_one_row_is_an_error_that_names_the_way_out(device: torch.device, total: int) -> None:
    encoder, batch = encoder_on(device), heaviest(device)
    limit(total, peak(encoder, batch) // (4 * ROWS))
    with pytest.raises(torch.OutOfMemoryError, match="Not even one chunk of 64000 samples fits the memory of cuda"):
        caching.rows_that_fit(lambda piece: encoder(piece.waveforms), batch, encoder.parameters())
    torch.cuda.set_per_process_memory_fraction(1.0)
    encoder(batch.waveforms[:2]).sum().backward()  # the process is as good as before


def test_training_in_little_memory_tells_the_same_losses(device: torch.device, total: int) -> None:
    def losses() -> list[float]:
        batches = material.batches(device, seconds=(4.0, 4.2), chunk_seconds=SECONDS, batch_size=24)
        settings = {"lr": 1e-4, "epochs": 3, "seed": 0, "device": device}
        return material.told(pairtune.train, encoders.load("wav2vec2-random"), batches, **settings)

    plenty = losses()
    needed = peak(encoder_on(device), silence(24, 64_000, device))
    limit(total, needed // 2)
    assert losses() == pytest.approx(plenty, rel=1e-3)


def test_out_of_memory_within_training_is_torch_s_own_error(device: torch.device, total: int) -> None:
    batches = material.batches(device, seconds=(4.0, 4.2), chunk_seconds=SECONDS, batch_size=24)
    encoder = encoder_on(device)
    needed = peak(encoder, silence(24, 64_000, device))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + needed // 3) / total)
    with pytest.raises(torch.OutOfMemoryError):
        pairtune.train(encoder, batches, Settings(lr=1e-4, epochs=1, seed=0, device=device, micro_batch=None))
