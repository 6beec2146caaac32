"""From the command of a new sweep to its first trained epoch, beside importing what it imports and ray.init:
`pytest -m benchmark -s tests/benchmarks/test_start.py`, three minutes on two idle cores.

Both in turns, three times. The bare side imports the modules of the driver and of a slot's worker, in one process, and
starts a Ray with the settings of a sweep. The workload is tiny (22 tones of half a second, two batches an epoch, an
encoder of 0.1 M parameters), so that the end of the first epoch, which the sweep's journal tells, is half a second
behind the first step. CPU seconds are those of all processes that were seen, each up to its last sight.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import heading
import makers
import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
PAIRS, AIM = int(os.environ.get("START_PAIRS", "3")), 1.5
TICKS = os.sysconf("SC_CLK_TCK")
BARE = """
import sweeps.grid, sweeps.sweep, sweeps.slots.worker, sweeps.trial.work, ray
from sweeps.cluster import joining
with joining.join(2):
    print("up", flush=True)
    input()
"""


@dataclass(frozen=True)
class Spent:
    """What a start took: seconds on the clock, and CPU seconds by what the process is."""

    wall: float
    cpu: dict[str, float]


def test_a_start_takes_little_more_than_imports_and_ray(tmp_path: Path) -> None:
    data = makers.tones(tmp_path / "tones", classes=3, clips=12)
    bare, real = [], []
    for number in range(PAIRS):
        bare.append(imports_and_ray())
        real.append(first_epoch(data, tmp_path / f"storage-{number}"))
    ratios = [ours.wall / theirs.wall for ours, theirs in zip(real, bare, strict=True)]
    heading.show("From the command to the first epoch")
    print("                          seconds, median   CPU seconds, median")
    for what, runs in (("imports and ray.init", bare), ("to the first epoch", real)):
        wall, cpu = (
            statistics.median(one) for one in ([run.wall for run in runs], [sum(run.cpu.values()) for run in runs])
        )
        print(f"{what:<25} {wall:15.1f} {cpu:21.1f}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    for process, seconds in sorted(real[-1].cpu.items(), key=lambda one: -one[1])[:14]:
        print(f"  {seconds:6.1f} s of CPU time  {process}")
    assert statistics.median(ratios) <= AIM


def imports_and_ray() -> Spent:
    """Of a process that imports and starts Ray; it ends when its input does."""
    began, seen = time.monotonic(), dict[int, tuple[str, float]]()
    command = [sys.executable, "-W", "ignore", "-c", BARE]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wall = time.monotonic() - began
        look(process.pid, seen)
        process.communicate(b"\n")
    return Spent(wall, summed(seen))


def first_epoch(data: Path, storage: Path) -> Spent:
    """Of the command of a sweep, which is ended when its journal has the loss of an epoch."""
    began, seen = time.monotonic(), dict[int, tuple[str, float]]()
    words = ["--datasets", str(data), "--backbones", "wav2vec2-random", "--storage", str(storage), "--trials", "1"]
    words += ["--epochs", "2", "--slots", "1", "--select", "holdout", "--batch-sizes", "12"]
    command = [sys.executable, str(ROOT / "sweeps/grid.py"), *words]
    journal = storage / "sweep/tracking/events.jsonl"
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not (journal.exists() and any("loss" in event.get("metrics", ()) for event in events(journal))):
            assert process.poll() is None, process.communicate()[0].decode()
            look(process.pid, seen)
            time.sleep(0.1)
        wall = time.monotonic() - began
        look(process.pid, seen)
        process.terminate()
        process.communicate()
    return Spent(wall, summed(seen))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}


def events(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of the journal."""
    return [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]


def look(root: int, seen: dict[int, tuple[str, float]]) -> None:
    """Notes the CPU seconds of a process and of all below it, by Linux' own account."""
    table: dict[int, tuple[int, float]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        table[int(process.name)] = int(stat[1]), (int(stat[11]) + int(stat[12])) / TICKS
    for pid, (_, seconds) in table.items():
        above = pid
        while above in table and above != root:
            above = table[above][0]
        if above == root:
            seen[pid] = name_of(pid) or seen.get(pid, ("?", 0.0))[0], seconds


def name_of(pid: int) -> str:
    """What Ray calls its process (an actor's method left out), else the program and its first word."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
    except OSError:
        return ""
    if words and words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").partition(".")[0]
    return " ".join(Path(word).name for word in words[:2])


def summed(seen: dict[int, tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in seen.values():
        found[name] = found.get(name, 0.0) + seconds
    return found
