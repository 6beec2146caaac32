"""What a step and a validation cost beside the model's own arithmetic: `python tests/gpu/share.py OUT`, 100 s on a GPU.

PairTune's step through `pairtune.train` beside forward and backward of the same encoder, projector and loss on one
batch that lies on the device, in turns; then what Adam and drawing a batch take by themselves, and where the GPU's time
goes. The validation curve's share of a run of 40 epochs at the default cadence, on as many clips as EmoDB has. Into
OUT/benchmarks.json, benchmarks.txt and profile.txt. Needs neither Ray nor MLflow nor Optuna.
--rehearse: all of it small, on the CPU; its numbers mean nothing. --tiny: validation alone, of wav2vec2-tiny.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import benchmark
import material
import measuring
import torch
from benchmark import Bench

from audioconfit import encoders, features, losses, method, mining, neighbours
from audioconfit.batches import Batch, Batches
from audioconfit.encoders import Encoder
from audioconfit.pairtune import Projector

ROUNDS = 5
CLIP_SECONDS = (1.2, 4.4)  # EmoDB's 249 clips for training and 55 for validation lie between these, 2.8 s on average
EPOCHS = 40  # a recipe's default


def constant_step(bench: Bench, encoder: Encoder, batch: Batch) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward on these tensors, as the loop has them; and Adam's step on the gradients they leave."""
    projector = Projector(encoder.dim, 256).to(bench.device)
    parameters = [*encoder.parameters(), *projector.parameters()]
    adam = torch.optim.Adam([one for one in parameters if one.requires_grad], lr=1e-5, fused=True)
    encoder.train()

    def passes() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.bf16 == "bf16"):
            pooled = encoder(batch.waveforms, batch.lengths)
        miner = mining.multi_similarity
        losses.supcon(projector(pooled.float()), batch.labels, miner=miner).backward()

    return passes, lambda: adam.step()


def seconds_of(run: Callable[[], None], bench: Bench, *, times: int) -> float:
    """Of one of several in a row, as a loop runs them: the device is waited for at the end only."""
    run()
    measuring.finish(bench.device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    measuring.finish(bench.device)
    return (time.perf_counter() - began) / times


def drawing_seconds(batches: Batches, bench: Bench) -> float:
    """Of one batch, its copy and gather on the device included."""
    measuring.finish(bench.device)
    began = time.perf_counter()
    for _ in batches.epoch(1):
        pass
    measuring.finish(bench.device)
    return (time.perf_counter() - began) / len(batches)


def share_of_step(bench: Bench, encoder: Encoder, rows: int, seconds: float, shortest: float) -> None:
    batches = bench.batches(rows, seconds, steps=8, shortest=shortest)
    passes, adam = constant_step(bench, encoder, next(batches.epoch(1)))
    found = []
    for _ in range(2 if bench.rehearsal else ROUNDS):
        step = benchmark.step_seconds(bench, encoder, batches, precision=bench.bf16)
        found.append((step, seconds_of(passes, bench, times=8)))
        encoder.train()
    ratios = sorted(bare / step for step, bare in found)
    step, bare = (statistics.median(column) for column in zip(*found, strict=True))
    adams, drawn = seconds_of(adam, bench, times=8), drawing_seconds(batches, bench)
    bench.note(
        "share of the step", backbone=encoder.name, rows=rows, chunk_seconds=seconds, padded=shortest < 1,
        milliseconds=1000 * step, forward_and_backward=1000 * bare, share=statistics.median(ratios), least=ratios[0],
        most=ratios[-1], adam=1000 * adams, drawing=1000 * drawn, rest=1000 * (step - bare - adams - drawn),
    )  # fmt: skip


def share_of_validation(bench: Bench, encoder: Encoder, chunk: float, *, rows: int = 32, each: int = 44) -> None:
    """At the default cadence; the loop's own step on chunks of this length, and what the validation curve reads."""
    waveforms, clips, names = material.clips(classes=7, each=each, seconds=CLIP_SECONDS)
    valid = clips[::6]
    train = [clip for clip in clips if clip not in valid]
    batches = Batches(waveforms, train, names, batch_size=rows, chunk_seconds=chunk, seed=0, device=bench.device)
    epoch = len(batches) * benchmark.step_seconds(bench, encoder, batches, precision=bench.bf16)

    def validate() -> None:
        how: features.How = {
            "chunk_seconds": chunk,
            "middle_seconds": method.VALIDATION_SECONDS,
            "precision": bench.bf16,
            "device": bench.device,
        }
        known, asked = (features.extract(encoder, waveforms, side, classes=names, **how) for side in (train, valid))
        neighbours.fit(known, asked, classes=names, device=bench.device)

    validating = measuring.seconds(validate, bench.device, repeats=3, warm=1)
    every = max(1, EPOCHS // method.VALIDATIONS)
    bench.note(
        "share of validation", backbone=encoder.name, chunk_seconds=chunk, clips=len(train), every=every,
        epoch_milliseconds=1000 * epoch, validation_milliseconds=1000 * validating,
        share=validating / (validating + every * epoch),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="only validation, of wav2vec2-tiny, on what is there")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() and not asked.rehearse else "cpu")
    bench = Bench(asked.folder, device, asked.rehearse or device.type == "cpu")
    bench.found["environment"] = measuring.environment()
    if asked.tiny:
        bench.rehearsal, encoder = True, encoders.load("wav2vec2-tiny").to(device)
        for chunk in (3.0, 1.0, 0.25):
            share_of_validation(bench, encoder, chunk)
        return
    for name, rows, seconds, shortest in (
        [("wav2vec2-base", 4, 0.5, 1.0), ("wavlm-base", 4, 0.5, 0.5)]
        if bench.rehearsal
        else [
            *(("wav2vec2-base", 32, 1.0, 1.0), ("wav2vec2-base", 32, 3.0, 1.0), ("wav2vec2-base", 64, 4.0, 1.0)),
            *(("wav2vec2-base", 64, 4.0, 0.5), ("wavlm-base", 64, 4.0, 1.0)),
        ]
    ):
        share_of_step(bench, bench.encoder(name), rows, seconds, shortest)
    encoder, size = bench.encoder("wav2vec2-base"), {"rows": 4, "each": 2} if bench.rehearsal else {}
    for chunk in (0.5,) if bench.rehearsal else (3.0, 1.0, 0.25):
        share_of_validation(bench, encoder, chunk, **size)
    benchmark.profile(bench)


if __name__ == "__main__":
    main()
