"""What a slot does with one trial, on all its ranks: recipe in, metrics and files out."""

import functools
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audioconfit import audio, figures, ranks, recipe
from audioconfit.audio import Waveforms
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe, Result
from sweeps import storage
from sweeps.interrupt import Halted
from sweeps.slots import Tell
from sweeps.stages import StageStore

# The files of a trial's folder that others read.
RESULT, PROBE = "result.json", "probe.safetensors"


@dataclass(frozen=True)
class Assignment:
    """One trial to run. `reads_test` only for the confirmation, after selection; `hands_over` for the champion's
    encoder.
    """

    recipe: Recipe
    prepared: Path
    root: Path
    key: str
    reads_test: bool = False
    hands_over: bool = False
    micro_batch: int | None = None

    @property
    def folder(self) -> Path:
        """Where the trial leaves its files."""
        return self.root / "trials" / self.key

    @property
    def is_done(self) -> bool:
        """Whether the trial has left its result."""
        return (self.folder / RESULT).exists()

    def read_metrics(self) -> dict[str, float]:
        """The scores of a trial that is done."""
        metrics: dict[str, float] = json.loads((self.folder / RESULT).read_text())["metrics"]
        return metrics


def work(assignment: Assignment, tell: Tell) -> None:
    """Stage 1 (or its stored result), then the probe; the confirmation also reads test.

    Raises:
        Halted: this node does not see the sweep's storage.
    """
    started = time.monotonic()
    if not assignment.prepared.is_dir():  # a node that joined after the sweep began
        raise Halted(storage.not_shared(assignment.prepared, socket.gethostname()))
    waveforms, store, what = _prepared(assignment.prepared), StageStore(assignment.root), assignment.recipe
    cached = ranks.agree(_is_stored(assignment, store))
    if not cached and not _stage_one(assignment, waveforms, store, tell):
        return
    final: dict[str, Any] = {}
    if ranks.rank() == 0:
        trained_seconds = 0.0 if cached else time.monotonic() - started
        final = _stage_two(assignment, waveforms, store, trained_seconds)
        final |= {"cached": cached, "seconds": time.monotonic() - started, "ended": True}
        if cached:
            final["curve"] = store.curve(what.stage)
    tell(what.epochs + 1, final)


def _is_stored(assignment: Assignment, store: StageStore) -> bool:
    """Whether stage 1 left all that this assignment asks for."""
    stage = assignment.recipe.stage
    if assignment.hands_over:
        return store.has_encoder(stage)
    if assignment.reads_test:
        return store.has_encoder(stage) or (store.has(stage) and store.test_features(stage) is not None)
    return store.has(stage)


def _stage_one(assignment: Assignment, waveforms: Waveforms, store: StageStore, tell: Tell) -> bool:
    what = assignment.recipe
    stage = recipe.embed(
        what,
        waveforms,
        device=_device(),
        checkpoint=store.checkpoint(what.stage),
        report=lambda epoch, metrics: tell(epoch, metrics or None),
        micro_batch=assignment.micro_batch,
    )
    if stage is None:
        return False
    if ranks.rank() == 0:
        store.publish(what.stage, stage)
    return True


def _stage_two(
    assignment: Assignment, waveforms: Waveforms, store: StageStore, trained_seconds: float
) -> dict[str, Any]:
    what = assignment.recipe
    train, valid = store.frozen_features(what.stage)
    split = recipe.split_of(what, waveforms)
    probe, result = recipe.fit_probe(what, train, valid, split.classes)
    if assignment.reads_test:
        test = store.test_features(what.stage)
        if test is None:
            test = recipe.features_of_test(what, store.encoder(what.stage), waveforms, device=_device())
            store.publish_test_features(what.stage, test)
        result = recipe.evaluate(result, probe, test)
    spent = {"cost": recipe.audio_seconds(what, waveforms), "trained_seconds": trained_seconds}
    _write(assignment.folder, result, probe, spent)
    return recipe.metrics(result) | {"epoch": what.epochs + 1, **spent}


def _write(folder: Path, result: Result, probe: Probe, spent: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    probe.save(folder / PROBE)
    shown = result.test or result.valid
    if shown.confusion is not None:
        figures.confusion(shown.confusion, result.classes, folder / "confusion.png")
    temporary = folder / f".{RESULT}"
    temporary.write_text(json.dumps(recipe.summary(result) | spent, indent=2))
    temporary.rename(folder / RESULT)  # last and whole: a trial that has it is done


@functools.lru_cache(maxsize=2)
def _prepared(folder: Path) -> Waveforms:
    return audio.load(folder)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
