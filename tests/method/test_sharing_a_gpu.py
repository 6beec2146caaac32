"""Sharing a GPU: whose share is how large, which errors mean that it is full, when rows are tried out anew. What needs
a GPU is in tests/gpu.
"""

from pathlib import Path

import pytest
import torch
from small_runs import Listener, batches

from audioconfit import caching, memory, pairtune
from audioconfit.batches import Batch
from audioconfit.training import Settings

GIB = 1 << 30


@pytest.mark.parametrize(
    ("fraction", "total", "bytes_of_torch"),
    [
        (1.0, 80 * GIB, 80 * GIB),
        (2.0, 80 * GIB, 80 * GIB),  # two whole GPUs
        (0.5, 80 * GIB, 39 * GIB),  # and 1 GiB for CUDA's own
        (0.125, 8 * GIB, 0.5 * GIB),  # never less than half of the share
    ],
)
def test_a_share_leaves_room_for_cuda_itself(fraction: float, total: int, bytes_of_torch: float) -> None:
    assert memory.torch_fraction(fraction, total) * total == pytest.approx(bytes_of_torch)


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    properties = type("Properties", (), {"total_memory": 80 * GIB})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def fraction(device: object) -> float:
        asked.append(device)
        return 0.5

    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", fraction)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: asked.append(device))
    assert memory.limit_bytes(torch.device("cuda")) == memory.limit_bytes(torch.device("cuda", 1)) == 40 * GIB
    memory.share(0.5)
    assert asked == [3, 1, 3]  # torch refuses "cuda" here


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`"),
    ValueError("CUDA error: out of memory"),
]


def test_what_could_not_allocate_ran_out_and_nothing_else_did() -> None:
    assert [memory.ran_out(error) for error in FULL] == [True] * len(FULL)
    assert [memory.ran_out(error) for error in OTHER] == [False] * len(OTHER)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_rows_do_not_fit_whoever_says_so(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: object) -> None:
        raise error

    monkeypatch.setattr(caching, "_try_out", full)
    batch = Batch(torch.zeros(2, 3), None, torch.zeros(2, dtype=torch.long))
    assert not caching._fits(lambda piece: piece.waveforms, batch, [])


def test_an_error_of_another_kind_is_no_full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*unused: object) -> None:
        raise OTHER[0]

    monkeypatch.setattr(caching, "_try_out", broken)
    batch = Batch(torch.zeros(2, 3), None, torch.zeros(2, dtype=torch.long))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        caching._fits(lambda piece: piece.waveforms, batch, [])


def test_a_checkpoint_of_another_device_tries_out_the_rows_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, found = 0, caching.rows_that_fit

    def counted(*arguments: object) -> int:
        nonlocal tried
        tried += 1
        return found(*arguments)

    def run(device: str, epochs: int) -> int:
        """How many times one run asks what fits, on what `device` is taken to be."""
        nonlocal tried
        tried = 0
        monkeypatch.setattr(memory, "described", lambda unused: device)
        settings = Settings(lr=1e-2, epochs=epochs, seed=0, checkpoint=tmp_path / "run.pt")
        assert pairtune.train(Listener(), batches(), settings)
        return tried

    monkeypatch.setattr(caching, "rows_that_fit", counted)
    assert run("a small GPU", 1) == 1
    assert run("a small GPU", 2) == 0, "the same device, bit for bit"
    assert run("a large GPU", 3) == 1
    assert run("a large GPU", 4) == 0
