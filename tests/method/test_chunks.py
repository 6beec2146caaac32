"""Chunks: the same samples from the device's memory and from the store, and a store that is larger than the memory."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from audioconfit import chunks, memory
from audioconfit.batches import Batches
from audioconfit.chunks import Cut, Mapped, Resident
from audioconfit.corpora import Clip

LENGTHS = np.array([50, 7, 30])
RECORDINGS = {"abc"[i]: np.arange(100 * i, 100 * i + length, dtype=np.int16) for i, length in enumerate(LENGTHS)}
CUT = Cut(np.array([2, 1, 0]), np.array([20, 0, 41]), np.array([9, 7, 9]), width=9, full=False)


def both() -> list[Resident | Mapped]:
    return [Resident(RECORDINGS, list("abc"), LENGTHS, 9, "cpu"), Mapped(RECORDINGS, list("abc"), "cpu")]


def test_both_cut_the_same_samples() -> None:
    for source in both():
        (cut,) = source.cut([CUT])
        assert cut.samples[0].tolist() == [*range(220, 229)]
        assert cut.samples[1, :7].tolist() == [*range(100, 107)]
        assert cut.samples[2].tolist() == [*range(41, 50)]
        assert (cut.clips.tolist(), cut.lengths.tolist(), cut.full) == ([2, 1, 0], [9, 7, 9], False)


def test_the_store_is_read_one_batch_ahead_and_in_order() -> None:
    asked: list[int] = []

    def cuts() -> Iterator[Cut]:
        for number in range(4):
            asked.append(number)
            yield Cut(np.array([0]), np.array([number]), np.array([5]), width=5, full=True)

    seen = []
    for cut in both()[1].cut(cuts()):
        seen.append((int(cut.samples[0, 0]), len(asked)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_a_resident_corpus_is_copied_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BLOCK_SAMPLES", 55)
    assert both()[0].samples[: LENGTHS.sum()].tolist() == [s for part in RECORDINGS.values() for s in part.tolist()]


@pytest.mark.parametrize(("free", "kind"), [(2 * 2 * (87 + 9), Resident), (2 * 2 * (87 + 9) - 1, Mapped)])
def test_a_corpus_may_take_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int, kind: type
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert isinstance(chunks.of(RECORDINGS, list("abc"), LENGTHS, longest=9, device="cpu"), kind)
    assert ("read from disk" in caplog.text) == (kind is Mapped)


def epoch(multi_label: bool) -> list[list[torch.Tensor]]:
    """All batches of an epoch over clips that are shorter and longer than a chunk."""
    draw = np.random.default_rng(0)
    recordings = {f"{i}": draw.integers(-9, 9, 1200 + 300 * i).astype(np.int16) for i in range(8)}
    clips = [Clip(f"{i}", Path(f"{i}"), ("ab"[i % 2], "c") if multi_label else ("ab"[i % 2],)) for i in range(8)]
    batches = Batches(
        recordings,
        clips,
        tuple("abc" if multi_label else "ab"),
        batch_size=4,
        chunk_seconds=0.1,
        seed=0,
        multi_label=multi_label,
    )
    found = [
        [batch.waveforms, batch.labels, *([] if batch.lengths is None else [batch.lengths])]
        for batch in batches.epoch(1)
    ]
    assert {len(parts) for parts in found} <= {2, 3}
    return found


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_epoch_is_the_same_from_both(monkeypatch: pytest.MonkeyPatch, multi_label: bool) -> None:
    resident = epoch(multi_label)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    for one, other in zip(resident, epoch(multi_label), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert torch.equal(ours, theirs)
    if multi_label:
        assert resident[0][1].sum(1).tolist() == [2.0] * 4


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_a_process_limit_counts_as_the_end_of_memory(limit: int) -> None:
    program = (
        "import resource, torch; from audioconfit import memory\n"
        "cpu = torch.device('cpu'); free = memory.free_bytes(cpu)\n"
        "name = {resource.RLIMIT_AS: 'VmSize', resource.RLIMIT_DATA: 'VmData'}[%d]\n"
        "used = [int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith(name)][0]\n"
        "resource.setrlimit(%d, (used + 10**8, used + 10**8))\n"
        "assert free > 10**8 >= memory.free_bytes(cpu) > 0.8 * 10**8, memory.free_bytes(cpu)"
    )
    subprocess.run([sys.executable, "-c", program % (limit, limit)], check=True)


TRAIN = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from audioconfit.batches import Batches
from audioconfit.corpora import Clip

clips, seconds = 400, 100  # 1.28 GB of samples, most of them a hole in the file
store = np.memmap(sys.argv[1], np.int16, "w+", shape=(clips * seconds * 16_000,))
store[:: 16_000] = 7
store.flush()
store = np.memmap(sys.argv[1], np.int16, "r")
torch.nn.Linear(160, 2)(torch.ones(1, 160)).sum().backward()  # what torch takes by itself
used = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData")][0]
resource.setrlimit(resource.RLIMIT_DATA, (used + 400_000_000,) * 2)

class Store:
    def __getitem__(self, key):
        first = int(key) * seconds * 16_000
        return store[first : first + seconds * 16_000]

batches = Batches(
    Store(), [Clip(str(i), Path(str(i)), ("ab"[i % 2],)) for i in range(clips)], ("a", "b"),
    batch_size=8, chunk_seconds=1.0, seed=0,
)
heard = torch.stack([batch.waveforms.sum() for batch in batches.epoch(1)])
print(len(heard), round(float((heard * 32_768).mean()), 3))
"""


def test_an_epoch_over_a_store_that_is_larger_than_the_memory(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path / "samples.i16")], check=True, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["50", "56.0"]  # 400 chunks in batches of 8; each second holds one sample of 7
    assert "read from disk" in ran.stderr
