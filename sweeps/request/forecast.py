"""The forecast: what a sweep will cost, before it begins, as a range. From its own earlier trials where there are any,
else from a short calibration: a few PairTune steps of each backbone on this machine's device.
"""

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audioconfit import encoders, files, losses, method
from audioconfit.audio import SAMPLE_RATE
from audioconfit.errors import InputError
from sweeps.request.cells import Cell
from sweeps.request.datasets import Task
from sweeps.request.plan import Plan
from sweeps.trial.assignment import RESULT

CALIBRATION_ROWS, CALIBRATION_STEPS = 4, 3  # beside a first step, which warms up
FLOAT_BYTES = 4
CHECKPOINT_SIZE = 3  # weights and Adam's two moments, in weights


@dataclass(frozen=True)
class Pace:
    """What a backbone costs: seconds of one slot per second of audio in stage 1, the least and the most; parameters,
    dimension; and where the range comes from.
    """

    low: float
    high: float
    parameters: int
    dim: int
    source: str


@dataclass(frozen=True)
class Forecast:
    """What one cell will cost without early stopping: hours from the least to the most; none, and no bytes, where its
    weights are not here.
    """

    stage_runs: int
    folds: int  # of the race, this cell's share of its task's
    confirmations: int
    source: str
    slot_hours: tuple[float, float] | None = None
    disk_bytes: float | None = None


def of_cells(plan: Plan, cells: Sequence[Cell], tasks: Sequence[Task]) -> dict[str, Forecast]:
    """The forecast of each cell by its name."""
    threads = math.ceil(plan.cpus_per_worker)  # as Ray gives them to a worker
    paces = {
        name: pace(name, plan.folder, threads=threads) for name in dict.fromkeys(cell.base.backbone for cell in cells)
    }
    by_name = {task.dataset: task for task in tasks}
    return {
        cell.name: _of(
            plan, cell, by_name[cell.base.dataset], paces[cell.base.backbone], _folds(plan, cell, cells, by_name)
        )
        for cell in cells
    }


def _folds(plan: Plan, cell: Cell, cells: Sequence[Cell], tasks: Mapping[str, Task]) -> int:
    """What a cell trains for the race at most: its share of the further inner folds of its task's finalists. Frozen
    features are extracted once.
    """
    if plan.select == "holdout" or cell.base.method == "frozen":
        return 0
    rivals = [other for other in cells if other.base.dataset == cell.base.dataset]
    finalists = min(max(plan.finalists, len(rivals)), sum(one.space.stage_count(plan.trials) for one in rivals))
    return math.ceil(finalists * (len(tasks[cell.base.dataset].inner) - 1) / len(rivals))


def pace(name: str, folder: Path, *, threads: int = 1) -> Pace | None:
    """What a backbone costs, from the sweep's earlier trials or on this machine. None: its weights are not here."""
    try:
        encoder = encoders.load(name)
    except InputError:
        return None  # the sweep itself will say so; a plan needs no network
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    trials = list(_readable(folder.glob(f"trials/*/{RESULT}")))
    trained = [one for one in trials if one["recipe"]["backbone"] == name and one.get("trained_seconds")]
    if trained:
        low, high, source = _of_trials([one["trained_seconds"] / one["cost"] for one in trained])
        return Pace(low, high, parameters, encoder.dim, source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    steps = _step_seconds(encoder, device, threads)
    clock = "" if device == "cuda" else ", which another work on this machine makes longer"
    source = f"the fastest to the slowest of {len(steps)} steps on this {device}{clock}"
    return Pace(min(steps), max(steps), parameters, encoder.dim, source)


def _of_trials(paces: Sequence[float]) -> tuple[float, float, str]:
    """The range of most of them, and what it is."""
    if len(paces) == 1:
        return paces[0], paces[0], "the pace of this sweep's one earlier trial, which tells no range"
    tenths = statistics.quantiles(paces, n=10, method="inclusive")
    return tenths[0], tenths[-1], f"the pace of this sweep's {len(paces)} earlier trials, a tenth left out at each end"


def _readable(results: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """What trials left; a plan passes over what is damaged."""
    for path in results:
        with suppress(InputError):
            yield files.read_json(path, "")


def _of(plan: Plan, cell: Cell, task: Task, backbone: Pace | None, folds: int) -> Forecast:
    """Every different stage 1 that the search can ask for, the race, and the confirmation, from scratch."""
    runs = cell.space.stage_count(plan.trials)
    again = task.folds if task.folds > 1 else plan.seeds
    if backbone is None:
        return Forecast(runs, folds, again, f"unknown for {cell.base.backbone}, whose weights are not here")
    costs = [
        method.audio_seconds(cell.recipe({"batch_size": batch, "chunk_seconds": chunk}), task.waveforms)
        for batch in cell.space.batch_sizes
        for chunk in cell.space.chunk_seconds
    ]
    hours = sum(costs) / len(costs) * (runs + folds + again) / 3600  # of audio
    clips = len(task.split.train) + len(task.split.valid)
    features = (runs + folds + again) * clips * backbone.dim * FLOAT_BYTES
    weights = backbone.parameters * FLOAT_BYTES * (plan.keep_encoders + again + CHECKPOINT_SIZE)
    slot_hours = hours * backbone.low, hours * backbone.high
    return Forecast(runs, folds, again, backbone.source, slot_hours, features + weights)


def _step_seconds(encoder: encoders.Encoder, device: str, threads: int) -> list[float]:
    """Of a few PairTune steps per second of audio. On a CPU in time of its own, so that a machine that is busy with
    other work gives the same forecast as an idle one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _timed(encoder.to(device).train(), device, threads)
    finally:
        torch.set_num_threads(before)


def _timed(encoder: encoders.Encoder, device: str, threads: int) -> list[float]:
    waveforms = torch.randn(CALIBRATION_ROWS, SAMPLE_RATE, device=device)
    labels = torch.arange(CALIBRATION_ROWS, device=device) // 2
    seconds = []
    for _ in range(1 + CALIBRATION_STEPS):
        began = time.perf_counter() if device == "cuda" else time.process_time()
        losses.supcon(encoder(waveforms), labels).backward()
        if device == "cuda":
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        else:
            seconds.append((time.process_time() - began) / threads)
    return [spent / CALIBRATION_ROWS for spent in seconds[1:]]
