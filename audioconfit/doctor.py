"""Doctor: what this machine has, what is missing, and how long an epoch will take; in sentences, within half a minute.

A few real steps of PairTune tell the speed: of the packaged backbones, and of the published shapes with random weights,
for which nothing is downloaded. What the time does not suffice for is named.
"""

import gc
import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import audioconfit
from audioconfit import backbones, encoders, memory, pairtune, precision
from audioconfit.audio import SAMPLE_RATE
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.training import Settings

SECONDS = 12.0  # after which no other backbone is begun
EPOCH_CHUNKS, CHUNK_SECONDS = 1000, 3.0  # what is foretold: a recipe's default chunk
CPU_BYTES = 4 << 30  # without which a published shape is not tried on a CPU: it takes 2.7 GiB (README.md)
# Modules, what they are for, and how to get them.
OPTIONAL = (
    (("ray", "optuna", "mlflow"), "sweeps", "pip install audioconfit"),
    (("onnx", "onnxscript", "onnxruntime"), "`audioconfit export --to onnx`", "pip install 'audioconfit[onnx]'"),
    (("boto3", "botocore"), "clusters on AWS", "pip install 'audioconfit[aws]'"),
    (("peft",), "adapters (tune=lora)", "pip install 'audioconfit[lora]'"),
)


def examine(*, seconds: float = SECONDS) -> Iterator[str]:
    """One sentence or two after the other, as they become known; after so many seconds no other backbone
    is tried.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield from _machine(device)
    yield from _missing()
    yield f"Training on {'this GPU' if device.type == 'cuda' else 'the CPU'}, from a few real steps:"
    ends = time.monotonic() + seconds
    for name in _names():
        if time.monotonic() > ends:
            yield f"  {name}: not measured, for the time was up (--seconds {2 * seconds:g})."
        elif _is_published(name) and memory.free_bytes(device) < CPU_BYTES:
            yield f"  {name}: not measured, for less than {CPU_BYTES >> 30} GiB are free."
        else:
            yield _expected(name, device)
            gc.collect()


def _machine(device: torch.device) -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield (
        f"AudioConFit {audioconfit.__version__} on Python {platform.python_version()}, {platform.system()}: torch "
        f"{torch.__version__}, transformers {metadata.version('transformers')}."
    )
    free = memory.free_bytes(torch.device("cpu"))
    known = f"{free / 2**30:.1f} GiB of memory are free" if free else "how much memory is free is not told here"
    if load > cores:
        yield f"Others use this machine (load {load:.1f} on {cores} cores): alone it would be faster than what follows."
    yield f"{cores} {'core' if cores == 1 else 'cores'}, of which torch uses {torch.get_num_threads()}; {known}."
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield (
            f"GPU: {properties.name} with {properties.total_memory / 2**30:.0f} GiB, "
            f"{memory.free_bytes(device) / 2**30:.0f} free; trained in {precision.best(device)}."
        )
    elif torch.version.cuda is None:
        yield "No GPU: this torch was built without CUDA."
    else:
        yield f"No GPU: torch is built for CUDA {torch.version.cuda} and finds no card, or a driver that is older."


def _missing() -> Iterator[str]:
    found = False
    for modules, purpose, remedy in OPTIONAL:
        if lacking := [name for name in modules if importlib.util.find_spec(name) is None]:
            found = True
            yield f"Missing for {purpose}: {', '.join(lacking)} ({remedy})."
    if not found:
        yield "Nothing is missing: sweeps, ONNX, AWS and adapters have what they import."


def _names() -> list[str]:
    """The packaged backbones, then the published ones."""
    known = [name for name, one in backbones.BACKBONES.items() if not one.source.startswith("random:")]
    return sorted(known, key=_is_published)


def _is_published(name: str) -> bool:
    return not backbones.BACKBONES[name].source.startswith("package:")


def _expected(name: str, device: torch.device) -> str:
    rate, parameters = audio_seconds_per_second(name, device)
    weights = ", random weights" if _is_published(name) else ""
    epoch = EPOCH_CHUNKS * CHUNK_SECONDS / rate
    return (
        f"  {name} ({parameters / 1e6:.1f} M parameters{weights}): {rate:.0f} s of audio a second; an epoch of "
        f"{EPOCH_CHUNKS} chunks of {CHUNK_SECONDS:g} s takes {_told(epoch)}."
    )


def audio_seconds_per_second(name: str, device: torch.device) -> tuple[float, int]:
    """How fast stage 1 trains this backbone here, and its number of parameters. Two steps, of which the first warms up;
    a few more on a GPU.
    """
    encoder = encoders.untrained(name) if _is_published(name) else encoders.load(name)
    rows, chunk, epochs = (32, CHUNK_SECONDS, 5) if device.type == "cuda" else (4, 1.0, 2)
    draw = np.random.default_rng(0)
    samples = round(chunk * SAMPLE_RATE)
    recordings = {f"{n}": draw.integers(-9000, 9000, samples).astype(np.int16) for n in range(rows)}
    clips = [Clip(key, Path(key), ("ab"[int(key) % 2],)) for key in recordings]
    batches = Batches(recordings, clips, ("a", "b"), batch_size=rows, chunk_seconds=chunk, seed=0, device=device)
    ends: list[float] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if metrics:  # the loss has been read, so that the GPU is done
            ends.append(time.monotonic())
        return True

    how = {"device": device, "precision": precision.best(device), "micro_batch": None, "report": report}
    pairtune.train(encoder, batches, Settings(lr=1e-5, epochs=epochs, seed=0, **how))  # type: ignore[arg-type]
    rate = rows * chunk * (len(ends) - 1) / (ends[-1] - ends[0])
    return rate, sum(parameter.numel() for parameter in encoder.parameters())


def _told(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"
