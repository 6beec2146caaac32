"""Speed on one GPU: `python tests/gpu/benchmark.py OUTDIR [--seconds 290] [--rehearse]`.

Training steps of PairTune through `pairtune.train` itself, as seconds of audio per second and as a share of the
card's measured matrix product; then where the time goes, features, Hugging Face's Trainer on the same clips, memory
against batch size. In the order of their value: what the time does not suffice for is left out and
named. OUTDIR/benchmarks.json and benchmarks.txt (the same as tables) are written anew after each number,
OUTDIR/profile.txt has the profiler's tables.
--rehearse: everything with tiny encoders on the CPU; its numbers mean nothing.
"""

import argparse
import functools
import gc
import itertools
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import material
import measuring
import rival
import torch

from audioconfit import features, finetune, pairtune
from audioconfit.batches import Batches
from audioconfit.encoders import Encoder
from audioconfit.precision import Precision
from audioconfit.training import Settings

PART_SECONDS = {
    "ceilings": 20,
    "steps": 120,
    "profile": 25,
    "features": 40,
    "trainer": 60,
    "memory": 40,
    "padding": 20,
}


class TimeUpError(Exception):
    """The part's share of the time is used up."""


@dataclass
class Bench:
    """Where the numbers go, and how large everything is."""

    folder: Path
    device: torch.device
    rehearsal: bool
    found: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    made: dict[str, Encoder] = field(default_factory=dict)

    @property
    def bf16(self) -> Precision:
        """The precision of all that is not about precision; in a rehearsal what CPUs are quick in."""
        return "fp32" if self.rehearsal else "bf16"

    def note(self, part: str, /, **numbers: Any) -> None:
        """One line of a part's table: printed, and into the JSON at once."""
        self.found.setdefault(part, []).append(numbers)
        shown = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
        )
        print(f"[{part}] " + ", ".join(shown), flush=True)
        self.write()

    def write(self) -> None:
        temporary = self.folder / ".benchmarks.json"
        temporary.write_text(json.dumps(self.found, indent=1))
        os.replace(temporary, self.folder / "benchmarks.json")
        (self.folder / "benchmarks.txt").write_text(measuring.tables(self.found))

    def encoder(self, name: str) -> Encoder:
        """One per architecture, kept: the weights do not matter, and large ones take seconds to draw."""
        if name not in self.made:
            self.made.clear()
            self.free()
            shape = material.SMALL | {"conv_dim": (16,) * 7} if self.rehearsal else {}
            self.made[name] = material.full_size(name, self.device, **shape)
        return self.made[name]

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0

    def batches(self, rows: int, seconds: float, *, steps: int, shortest: float = 1.0) -> Batches:
        """`steps` batches an epoch; clips a little longer than a chunk, or down to `shortest` of it."""
        longest = 1.05 if shortest == 1.0 else 1.0
        bounds = (shortest * seconds, longest * seconds)
        waveforms, clips, names = clips_of(max(2, rows * steps // 4), bounds)
        return Batches(waveforms, clips, names, batch_size=rows, chunk_seconds=seconds, seed=0, device=self.device)


@functools.cache
def clips_of(each: int, seconds: tuple[float, float]) -> tuple[Any, ...]:
    """Drawn once: several cells train on the same clips."""
    return material.clips(classes=4, each=each, seconds=seconds)


def step_seconds(bench: Bench, encoder: Encoder, batches: Batches, *, method: Any = pairtune, **settings: Any) -> float:
    """Median time of a step over whole epochs, the first of which warms up."""
    ends: list[float] = []
    epochs, budget = (2, 1.0) if bench.rehearsal else (12, 1.2)

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if metrics:  # the epoch's losses have been read, so that the GPU is done
            ends.append(time.perf_counter())
        return len(ends) < 3 or ends[-1] - ends[0] < budget

    usual = {"lr": 1e-5, "epochs": epochs, "seed": 0, "device": bench.device, "micro_batch": None}
    method.train(encoder, batches, Settings(report=report, **usual | settings))
    return statistics.median(later - sooner for sooner, later in itertools.pairwise(ends)) / len(batches)


def ceilings(bench: Bench) -> None:
    """Matrix products and a copy."""
    size = 256 if bench.rehearsal else 8192
    for kind in ("bf16", "tf32", "fp32"):
        bench.ceilings[kind] = measuring.product_ceiling(kind, size, bench.device)
        bench.note("ceilings", of=f"{size}^3 product", kind=kind, tflops=bench.ceilings[kind] / 1e12)
    copied = measuring.copy_ceiling(1 << (16 if bench.rehearsal else 28), bench.device)
    bench.note("ceilings", of="copy, bytes read and written", terabytes_per_second=copied / 1e12)


def steps(bench: Bench) -> None:
    """PairTune's step: every architecture in bf16 first, then with TF32, then in plain float32."""
    sizes = {1.0: 4} if bench.rehearsal else {4.0: 64, 1.0: 128, 10.0: 32}
    names = ("wav2vec2-base", "wavlm-base", "wav2vec2-large")[: 2 if bench.rehearsal else 3]
    for kind in ("tf32", "fp32") if bench.rehearsal else ("bf16", "tf32", "fp32"):
        for name in names:
            for seconds, rows in sizes.items():
                one_step(bench, name, kind, rows, seconds)
        if kind == "bf16" and not bench.rehearsal:
            for rows, seconds in ((32, 1.0), (32, 3.0)):  # a recipe's default batch; launches may decide
                one_step(bench, "wav2vec2-base", kind, rows, seconds)


def one_step(bench: Bench, name: str, kind: str, rows: int, seconds: float) -> None:
    encoder, bf16 = bench.encoder(name), kind == "bf16"
    bench.free()
    head = {"backbone": name, "numbers": kind, "rows": rows, "chunk_seconds": seconds}
    try:
        with measuring.numbers(kind):
            batches = bench.batches(rows, seconds, steps=4)
            spent = step_seconds(bench, encoder, batches, precision="bf16" if bf16 else "fp32")
            peak = bench.peak_gib()
            flops = measuring.step_flops(encoder, rows, round(seconds * 16_000), bench.device, bf16=bf16)
    except torch.OutOfMemoryError:
        bench.note("steps", **head, outcome="out of memory")
        return
    bench.note(
        "steps",
        **head,
        milliseconds=1000 * spent,
        clips_per_second=rows / spent,
        audio_seconds_per_second=rows * seconds / spent,
        tflops=flops["by_hand"] / spent / 1e12,
        of_the_product=flops["by_hand"] / spent / bench.ceilings[kind],
        flops=flops,
        peak_gib=peak,
    )


def profile(bench: Bench) -> None:
    """Where a step's time goes, for a full batch and for the recipe's default one."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    tables = []
    for name, rows, seconds in (
        [("wav2vec2-base", 4, 1.0)]
        if bench.rehearsal
        else [("wav2vec2-base", 64, 4.0), ("wav2vec2-base", 32, 1.0), ("wavlm-base", 64, 4.0)]
    ):
        encoder, batches = bench.encoder(name), bench.batches(rows, seconds, steps=4)
        recorder = torch.profiler.profile(activities=activities)
        wall = profiled_epoch(bench, encoder, batches, recorder)
        shares = measuring.kernel_shares(recorder)
        bench.note(
            "profile",
            backbone=name,
            rows=rows,
            chunk_seconds=seconds,
            steps=len(batches),
            wall_seconds=wall,
            gpu_busy=sum(shares.values()) / wall,
            seconds_by_kind=shares,
        )
        order = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
        heading = f"{name}, {rows} x {seconds} s, bf16, {len(batches)} steps in {wall:.3f} s (with the profiler's cost)"
        table = recorder.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90)
        tables.append(f"{heading}\n{table}\n")
        (bench.folder / "profile.txt").write_text("\n".join(tables))


def profiled_epoch(bench: Bench, encoder: Encoder, batches: Batches, recorder: torch.profiler.profile) -> float:
    """Records the second of two epochs; its seconds on the clock."""
    ends: list[float] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if metrics and epoch == 1:
            recorder.start()
        if metrics:
            ends.append(time.perf_counter())
        return True

    usual = {"lr": 1e-5, "epochs": 2, "seed": 0, "device": bench.device, "micro_batch": None, "precision": bench.bf16}
    pairtune.train(encoder, batches, Settings(report=report, **usual))
    recorder.stop()
    return ends[1] - ends[0]


def extraction(bench: Bench) -> None:
    """Features per second: whole `features.extract`, host and copies included."""
    count, long = (4, 2.0) if bench.rehearsal else (96, 10.0)
    waveforms, clips, classes = material.clips(classes=4, each=count // 4, seconds=(long, long))
    names = ("wav2vec2-base", "wavlm-base", "wav2vec2-large")
    for precision in (bench.bf16, "fp32"):
        for name in names:
            encoder = bench.encoder(name)
            for chunk in (1.0,) if bench.rehearsal else (1.0, 4.0, 10.0):
                bench.free()

                def run(encoder: Encoder = encoder, chunk: float = chunk, precision: str = precision) -> object:
                    settings = {"device": bench.device, "precision": precision}
                    return features.extract(encoder, waveforms, clips, classes=classes, chunk_seconds=chunk, **settings)

                spent = measuring.seconds(run, bench.device, repeats=3, warm=1)
                bench.note(
                    "features",
                    backbone=name,
                    precision=precision,
                    chunk_seconds=chunk,
                    clips_per_second=count / spent,
                    audio_seconds_per_second=count * long / spent,
                    peak_gib=bench.peak_gib(),
                )


def trainer(bench: Bench) -> None:
    """FineTune and PairTune beside Hugging Face's Trainer: same configuration, clips, batch, and bf16."""
    rows, seconds, steps = (4, 0.5, 2) if bench.rehearsal else (32, 3.0, 12)
    encoder, batches = bench.encoder("wav2vec2-base"), bench.batches(rows, seconds, steps=steps)
    for name, method in (("FineTune", finetune), ("PairTune", pairtune)):
        bench.free()
        spent = step_seconds(bench, encoder, batches, method=method, precision=bench.bf16)
        bench.note("trainer", loop=f"ours, {name}", rows=rows, chunk_seconds=seconds, milliseconds=1000 * spent,
                   clips_per_second=rows / spent, peak_gib=bench.peak_gib())  # fmt: skip
    shape = material.SMALL | {"conv_dim": (16,) * 7} if bench.rehearsal else {}
    for kind, spent in rival.step_seconds(
        bench.folder / "clips", rows=rows, seconds=seconds, steps=steps, bf16=not bench.rehearsal,
        workers=1 if bench.rehearsal else 8, shape=shape, cpu=bench.device.type == "cpu",
    ):  # fmt: skip
        bench.note("trainer", loop=f"Hugging Face Trainer, {kind}", rows=rows, chunk_seconds=seconds,
                   milliseconds=1000 * spent, clips_per_second=rows / spent)  # fmt: skip


def memory(bench: Bench) -> None:
    """Peak memory and time against batch size, whole and in micro batches."""
    seconds = 0.5 if bench.rehearsal else 4.0
    whole, pieces, micro = ((4, 8), (8,), 4) if bench.rehearsal else ((16, 64, 256), (64, 256, 1024), 16)
    encoder = bench.encoder("wav2vec2-base")
    for rows, micro_batch in [(rows, None) for rows in whole] + [(rows, micro) for rows in pieces]:
        bench.free()
        head = {"rows": rows, "chunk_seconds": seconds, "micro_batch": micro_batch}
        try:
            batches = bench.batches(rows, seconds, steps=1)
            spent = step_seconds(bench, encoder, batches, precision=bench.bf16, micro_batch=micro_batch)
        except torch.OutOfMemoryError:
            bench.note("memory", **head, outcome="out of memory")
            continue
        bench.note("memory", **head, peak_gib=bench.peak_gib(), milliseconds=1000 * spent)


def padding(bench: Bench) -> None:
    """A batch that holds padding beside a full one of the same width."""
    rows, seconds = (4, 0.5) if bench.rehearsal else (64, 4.0)
    for name in ("wav2vec2-base", "wavlm-base"):
        for shortest in (1.0, 0.5):
            batches = bench.batches(rows, seconds, steps=4, shortest=shortest)
            spent = step_seconds(bench, bench.encoder(name), batches, precision=bench.bf16)
            bench.note("padding", backbone=name, shortest_of_chunk=shortest, milliseconds=1000 * spent)


PARTS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "steps": steps,
    "profile": profile,
    "features": extraction,
    "trainer": trainer,
    "memory": memory,
    "padding": padding,
}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise TimeUpError(f"{seconds:.0f} s were not enough")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(bench: Bench, name: str, seconds: float) -> str:
    """A part, and what became of it. A broken CUDA context is raised: nothing else would run in this process."""
    try:
        with at_most(seconds):
            PARTS[name](bench)
        return "done"
    except TimeUpError as error:
        return f"cut short: {error}"
    except torch.OutOfMemoryError as error:
        return f"failed: {error}"
    except torch.AcceleratorError:
        raise
    except Exception as error:
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {error}"


def go_on(asked: argparse.Namespace, rest: list[str], seconds: float) -> None:
    """The remaining parts in a process of their own."""
    flags = ["--rehearse"] if asked.rehearse else []
    command = [sys.executable, "-W", "ignore", __file__, str(asked.folder), "--seconds", str(seconds), "--continued"]
    os.execv(sys.executable, [*command, *flags, "--parts", *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=290.0)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--continued", action="store_true", help="add to what benchmarks.json has")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked.folder, torch.device("cpu" if asked.rehearse else "cuda"), asked.rehearse)
    if asked.continued:
        bench.found = json.loads((asked.folder / "benchmarks.json").read_text())
        bench.ceilings = {entry["kind"]: entry["tflops"] * 1e12 for entry in bench.found["ceilings"] if "kind" in entry}
    bench.found["environment"] = measuring.environment()
    print(json.dumps(bench.found["environment"]), flush=True)
    ends = time.monotonic() + asked.seconds
    for number, name in enumerate(asked.parts):
        began, left = time.monotonic(), ends - time.monotonic()
        try:
            outcome = run(bench, name, min(left, PART_SECONDS[name])) if left > 5 else "left out: no time"
        except torch.AcceleratorError as error:
            bench.note("parts", part=name, outcome=f"failed: {error}", seconds=time.monotonic() - began)
            go_on(asked, asked.parts[number + 1 :], ends - time.monotonic())
        bench.note("parts", part=name, outcome=outcome, seconds=time.monotonic() - began)
        bench.free()


if __name__ == "__main__":
    main()
