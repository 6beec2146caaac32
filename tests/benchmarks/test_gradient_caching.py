"""Gradient caching: peak memory and time of a step, whatever the batch size. A minute on one core:
`pytest -m benchmark -s tests/benchmarks/test_gradient_caching.py`.

Each measurement is a process of its own, which reports its peak resident memory above what it held before the step.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHUNK = 16_000  # samples, 1 s


def measure(rows: int, micro_batch: int) -> dict[str, float]:
    """Peak MiB above rest and seconds of one PairTune step of wav2vec2-random."""
    asked = [sys.executable, "-W", "ignore", __file__, str(rows), str(micro_batch)]
    return json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def step(rows: int, micro_batch: int) -> dict[str, float]:
    import torch

    from audioconfit import caching, encoders, losses, mining
    from audioconfit.batches import Batch

    torch.set_num_threads(1)
    encoder = encoders.load("wav2vec2-random").train()
    batch = Batch(torch.randn(rows, CHUNK), None, torch.arange(rows) % 8)
    warm = Batch(batch.waveforms[:2], None, batch.labels[:2])

    def embed(piece: Batch) -> torch.Tensor:
        return encoder(piece.waveforms)

    def loss(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return losses.supcon(embeddings, labels, miner=mining.multi_similarity)

    caching.backward(embed, loss, warm, micro_batch=2)
    rest = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.perf_counter()
    caching.backward(embed, loss, batch, micro_batch=micro_batch)
    return {"MiB": resident("VmHWM") - rest, "seconds": time.perf_counter() - began}


def resident(field: str) -> float:
    """Of this process, in MiB: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


@pytest.mark.benchmark
def test_peak_memory_does_not_grow_with_the_batch() -> None:
    plain = {rows: measure(rows, rows) for rows in (32, 512)}
    cached = {rows: measure(rows, 16) for rows in (32, 128, 512)}
    print("\nrows   plain MiB  cached MiB  plain s  cached s")
    for rows in (32, 128, 512):
        whole = plain.get(rows, {"MiB": float("nan"), "seconds": float("nan")})
        print(f"{rows:4d} {whole['MiB']:11.0f} {cached[rows]['MiB']:11.0f}", end="")
        print(f"{whole['seconds']:9.2f} {cached[rows]['seconds']:9.2f}")
    print(f"512 cached / 32 plain: {cached[512]['MiB'] / plain[32]['MiB']:.2f} of the memory")
    print(f"512 cached / 512 plain: {cached[512]['seconds'] / plain[512]['seconds']:.2f} of the time")
    assert cached[512]["MiB"] <= 1.2 * plain[32]["MiB"]


if __name__ == "__main__":
    print(json.dumps(step(int(sys.argv[1]), int(sys.argv[2]))))
