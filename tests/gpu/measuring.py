"""What the benchmark counts with: where it ran, the card's ceilings, operations, kinds of kernels."""

import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from audioconfit import losses
from audioconfit.encoders import Encoder
from audioconfit.pairtune import Projector

ROOT = Path(__file__).parents[2]
# Of a kernel's name, the first that fits. cuDNN's convolutions are matrix products too, and often named so.
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "convolution": ("conv", "cudnn", "implicit", "wgrad", "dgrad", "fprop"),
    "matrix product": ("gemm", "cublas", "cutlass", "nvjet", "splitk"),
    "optimiser": ("adam", "multi_tensor"),
    "norm": ("norm", "welford"),
    "gelu": ("gelu",),
    "dropout": ("dropout",),
    "copy and cast": ("copy", "memcpy", "memset", "fill", "cat"),
    "reduction": ("reduce",),
    "other elementwise": ("elementwise", "vectorized"),
}


def environment() -> dict[str, Any]:
    """Hardware, software, commit, date and load."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": os.environ.get("AUDIOCONFIT_COMMIT") or _said("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "torchaudio", "transformers", "accelerate", "numpy")},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def tables(found: dict[str, Any]) -> str:
    """What was found, a table per part; "-" where a line has no such number."""
    written = []
    for part, lines in found.items():
        if part == "environment":
            written.append("\n".join(f"{key}: {value}" for key, value in lines.items()))
            continue
        columns = list(dict.fromkeys(key for line in lines for key in line if not isinstance(line[key], dict)))
        rows = [columns] + [[_shown(line.get(key, "-")) for key in columns] for line in lines]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        written.append("\n".join([part.upper(), *padded]))
    return "\n\n".join(written) + "\n"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def numbers(kind: str) -> Iterator[None]:
    """Matrix products and convolutions in "fp32", with TF32 in both ("tf32"); "bf16" leaves float32 to torch."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if kind != "bf16":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device, *, repeats: int = 5, warm: int = 2) -> float:
    """Median time of one run."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        finish(device)
        began = time.perf_counter()
        run()
        finish(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def product_ceiling(kind: str, size: int, device: torch.device) -> float:
    """FLOP/s of a square matrix product on random numbers: what no training step of this card exceeds."""
    left, right = (
        torch.randn(size, size, device=device, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
        for _ in range(2)
    )
    with numbers(kind):
        return 2 * size**3 / seconds(lambda: left @ right, device)


def copy_ceiling(count: int, device: torch.device) -> float:
    """Bytes per second, read and written."""
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def step_flops(encoder: Encoder, rows: int, samples: int, device: torch.device, *, bf16: bool) -> dict[str, float]:
    """Multiplications and additions of a training step on full chunks.

    "counted" is FlopCounterMode's on the real forward and backward pass. It misses norms, activations, softmax, Fourier
    transforms, the loss's elementwise part and Adam (no matrix products), sees attention only in kernels that it knows,
    and counts the weight gradient of a grouped convolution as if it had one group. "by_hand" is what the matrix
    products and convolutions of the encoder must do: the forward pass, and twice as much backward less the first
    convolution's input; it is what shares of a ceiling are reckoned with.
    """
    projector, labels = Projector(encoder.dim, 256).to(device), torch.arange(rows, device=device) % 4
    waveforms = torch.randn(rows, samples, device=device)
    encoder.train()
    with FlopCounterMode(display=False) as forward, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        embedded = encoder(waveforms)
    with FlopCounterMode(display=False) as backward:
        losses.supcon(projector(embedded.float()), labels).backward()
    encoder.zero_grad(set_to_none=True)
    by_hand, saved = forward_flops(encoder, rows, samples)
    return {
        "forward_counted": float(forward.get_total_flops()),
        "counted": float(forward.get_total_flops() + backward.get_total_flops()),
        "forward_by_hand": by_hand,
        "by_hand": 3 * by_hand - saved,
    }


def forward_flops(encoder: Encoder, rows: int, samples: int) -> tuple[float, float]:
    """Of a forward pass, and of the first convolution in it, towards whose input no gradient is computed."""
    config, flops, channels, length = encoder.model.config, [], 1, samples
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        flops.append(2.0 * length * kernel * channels * width)
        channels = width
    dim, taps = config.hidden_size, config.num_conv_pos_embeddings
    positions = length + 1 - taps % 2  # an even kernel gives one frame more, which is cut off
    flops.append(2.0 * length * channels * dim)
    flops.append(2.0 * positions * taps * dim * dim / config.num_conv_pos_embedding_groups)
    layer = 2.0 * length * (4 * dim * dim + 2 * dim * config.intermediate_size) + 4.0 * length * length * dim
    flops.append(config.num_hidden_layers * layer)
    return rows * sum(flops), rows * flops[0]


def kernel_shares(profile: torch.profiler.profile) -> dict[str, float]:
    """Seconds on the GPU by kind of kernel."""
    found: dict[str, float] = {}
    for event in profile.key_averages():
        spent = event.self_device_time_total / 1e6
        if spent <= 0 or event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        found[kind] = found.get(kind, 0.0) + spent
    return dict(sorted(found.items(), key=lambda item: -item[1]))
