"""Processes that share the card: each has its own part of the memory, and what the card's libraries say when it is full
counts as such.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audioconfit import caching, memory

pytestmark = [pytest.mark.gpu, pytest.mark.cuda_only]
HERE = Path(__file__).parent

# A share of 1.5 GiB of torch, whatever the card has. 384 rows of 4 s keep 1.7 GiB for their backward pass alone.
TRAIN = """
import sys; sys.path.insert(0, sys.argv[1])
import material, torch
from audioconfit import caching, encoders, memory, pairtune, training
from audioconfit.batches import Batches
device = torch.device("cuda")
total = torch.cuda.get_device_properties(device).total_memory
memory.share(((3 << 29) + memory.CONTEXT_BYTES) / total)
found, ask = [], caching.rows_that_fit
caching.rows_that_fit = lambda *given: found.append(ask(*given)) or found[-1]
waveforms, clips, names = material.clips(classes=4, each=96, seconds=(4.0, 4.2))
batches = Batches(waveforms, clips, names, batch_size=384, chunk_seconds=4.0, seed=0, device=device)
settings = {"lr": 1e-4, "epochs": 3, "seed": 0, "device": device}
losses = material.told(pairtune.train, encoders.load("wav2vec2-random"), batches, **settings)
print(found[0], torch.cuda.max_memory_reserved(), memory.limit_bytes(device), *losses)
"""

# The whole card is taken before cuBLAS, cuFFT and cuDNN are first asked.
FULL = """
import torch
from audioconfit import memory
device = torch.device("cuda")
left, right = torch.randn(64, 64, device=device), torch.randn(64, 64, device=device)
rows, taps = torch.randn(8, 64, 4096, device=device), torch.randn(64, 64, 65, device=device)
held, size = [], torch.cuda.mem_get_info()[0]
while size >= 1 << 20:
    try:
        held.append(torch.empty(size, dtype=torch.uint8, device=device))
    except RuntimeError:
        size //= 2
for name, run in {
    "product": lambda: left @ right,
    "convolution": lambda: torch.conv1d(rows, taps),
    "Fourier": lambda: torch.fft.rfft(rows),
    "solve": lambda: torch.linalg.solve(left, right),
}.items():
    try:
        run()
        torch.cuda.synchronize()
        print(name, "fitted")
    except RuntimeError as error:
        print(name, memory.ran_out(error), type(error).__name__, str(error).splitlines()[0])
"""


def begun(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=80)
    assert process.returncode == 0, errors
    return out


def test_two_at_a_time_keep_to_their_shares_and_train_alike() -> None:
    both = [begun(TRAIN, str(HERE)) for _ in range(2)]
    found = [said(process).split() for process in both]
    for rows, reserved, limit, *losses in found:
        print(f"\n{rows} of 384 rows at once, {int(reserved) >> 20} of {int(limit) >> 20} MiB, losses {losses}")
        assert int(rows) < 384
        assert int(reserved) <= int(limit)
        assert int(limit) == pytest.approx(3 << 29, rel=1e-3)
        assert [float(loss) for loss in losses] == pytest.approx([float(loss) for loss in found[0][3:]], rel=1e-3)


def test_free_memory_is_what_is_left_of_the_share(device: torch.device) -> None:
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    try:
        memory.share(((2 << 30) + memory.CONTEXT_BYTES) / total)
        free = memory.free_bytes(device)
        held = torch.empty(1 << 30, dtype=torch.uint8, device=device)
        assert free - memory.free_bytes(device) == pytest.approx(held.nbytes, rel=0.05)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(3 << 30, dtype=torch.uint8, device=device)
        assert int(caching.GPU_HEADROOM * memory.limit_bytes(device)) < 0.06 * (2 << 30)
    finally:
        memory.share(1.0)


def test_a_full_card_is_told_as_such_by_every_library() -> None:
    lines = said(begun(FULL)).splitlines()
    print("\n" + "\n".join(lines))
    tried = [line.split()[:2] for line in lines]
    assert [name for name, _ in tried] == ["product", "convolution", "Fourier", "solve"]
    assert all(outcome in ("True", "fitted") for _, outcome in tried)
    assert any(outcome == "True" for _, outcome in tried)
