"""What a slot does with one trial, on all its ranks: recipe in, metrics and files out."""

import functools
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audioconfit import audio, figures, files, method, ranks, results
from audioconfit.audio import Waveforms
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe
from audioconfit.results import Result
from audioconfit.training import HEARTBEAT_SECONDS
from sweeps import faults
from sweeps.faults import Halted, Unusable
from sweeps.slots.slot import Tell
from sweeps.trial import listening
from sweeps.trial.assignment import LAYERS, PREDICTIONS, PROBE, RESULT, Assignment
from sweeps.trial.stages import StageStore
from sweeps.trial.usage import Usage


def work(assignment: Assignment, tell: Tell) -> None:
    """Stage 1 (or its stored result), then the probe; the confirmation also reads test.

    Raises:
        Halted: the storage is full, or holds other recordings by now.
        Unusable: this node does not see the sweep's storage, or cannot read or write there.
    """
    with faults.watched(assignment.root, assignment.prepared):
        _work(assignment, tell)


def _work(assignment: Assignment, tell: Tell) -> None:
    usage, started = Usage(), time.monotonic()
    if not assignment.prepared.is_dir():  # a node that joined after the sweep began
        raise Unusable(faults.not_shared(assignment.prepared, socket.gethostname()))
    waveforms, store, recipe = _prepared(assignment), StageStore(assignment.root), assignment.recipe
    cached = ranks.agree(_is_stored(assignment, store))
    if not cached and not _stage_one(assignment, waveforms, store, tell, usage):
        return
    final: dict[str, Any] = {}
    if ranks.rank() == 0:
        trained_seconds = 0.0 if cached else time.monotonic() - started
        beat = _beat(recipe, tell, usage)
        final = _stage_two(assignment, waveforms, store, trained_seconds, beat, usage)
        final |= {"cached": cached, "seconds": time.monotonic() - started, "ended": True}
        if cached:
            final["curve"] = store.curve(recipe.stage_key)
    while ranks.agree(False):  # the others follow rank 0's signs of life until its probe is done
        tell(recipe.epochs, None)
    tell(recipe.epochs + 1, final)


def _is_stored(assignment: Assignment, store: StageStore) -> bool:
    """Whether stage 1 left all that this assignment asks for."""
    stage = assignment.recipe.stage_key
    if assignment.hands_over:
        return store.has_encoder(stage)
    if assignment.reads_test:
        return store.has_encoder(stage) or (store.has(stage) and store.test_features(stage) is not None)
    return store.has(stage)


def _stage_one(assignment: Assignment, waveforms: Waveforms, store: StageStore, tell: Tell, usage: Usage) -> bool:
    recipe = assignment.recipe

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        usage.look()
        return tell(epoch, metrics or None)

    stage = method.tune(
        recipe,
        waveforms,
        device=_device(),
        checkpoint=store.checkpoint(recipe.stage_key),
        report=report,
        micro_batch=assignment.micro_batch,
        clock=usage.clock,
    )
    if stage is None:
        return False
    if ranks.rank() == 0:
        store.publish(recipe.stage_key, stage)
    return True


def _beat(recipe: Recipe, tell: Tell, usage: Usage) -> Callable[[], None]:
    """Rank 0's sign of life, every few seconds however often it is called: a large corpus' probe may take longer than
    the patience with a silent worker.
    """
    told = time.monotonic()

    def beat() -> None:
        nonlocal told
        if time.monotonic() - told > HEARTBEAT_SECONDS:
            told = time.monotonic()
            with usage.clock.phase("waiting"):
                ranks.agree(True)
                tell(recipe.epochs, None)

    return beat


def _stage_two(
    assignment: Assignment,
    waveforms: Waveforms,
    store: StageStore,
    trained_seconds: float,
    alive: Callable[[], None],
    usage: Usage,
) -> dict[str, Any]:
    recipe, device, clock = assignment.recipe, _device(), usage.clock
    train, valid = store.frozen_features(recipe.stage_key)
    split = method.split_of(recipe, waveforms)
    head = store.head(recipe.stage_key)
    with clock.phase("probe"):
        probes, result = method.fit_probe(recipe, train, valid, split, head=head, device=device, alive=alive)
    if assignment.reads_test:
        test = store.test_features(recipe.stage_key)
        if test is None:
            encoder = store.encoder(recipe.stage_key)
            with clock.phase("extraction"):
                test = method.features_of_test(recipe, encoder, waveforms, device=device, alive=alive)
            store.publish_test_features(recipe.stage_key, test)
        with clock.phase("probe"):
            result = method.evaluate(result, probes, test, split, device=device)
            votes = probes.knn.logits(test.mixed(probes.linear.layers).embeddings, device=device)
        said = listening.of(result.predictions["test"], result.classes, votes, probes.linear.thresholds)
        listening.write(said, waveforms, assignment.folder)
    if assignment.reads_test and recipe.layers == "all" and not recipe.refit:
        with clock.phase("probe"):
            by_layer = method.score_by_layer(recipe, train, valid, split, device=device, alive=alive)
        figures.layers(by_layer, assignment.folder / "layers.png", chosen=recipe.probe_layer, score="validation score")
        files.write(assignment.folder / LAYERS, json.dumps(by_layer, indent=2))
    _write(assignment, result, probes.linear)
    cost = method.audio_seconds(recipe, waveforms)
    spent = {"cost": cost, "trained_seconds": trained_seconds}
    spent |= usage.numbers(audio_seconds=cost, trained_seconds=trained_seconds)
    # Last: a trial that has a result is done.
    about = results.summary(result) | spent | {"protocol": split.protocol}
    files.write(assignment.folder / RESULT, json.dumps(about, indent=2))
    return results.metrics(result) | {"epoch": recipe.epochs + 1, **spent}


def _write(assignment: Assignment, result: Result, probe: Probe) -> None:
    """All files of the trial but its result."""
    folder = assignment.folder
    (folder / RESULT).unlink(missing_ok=True)  # a damaged one
    probe.save(folder / PROBE)
    if assignment.keeps_predictions:
        for side, predicted in result.predictions.items():
            predicted.save(folder / PREDICTIONS.format(side=side))
    shown = result.test or result.valid
    if shown.confusion is not None:
        side = "test" if result.test else "validation"
        title = f"{side}: {shown.accuracy:.1%} of {sum(map(sum, shown.confusion))} clips right"
        figures.confusion(shown.confusion, result.classes, folder / "confusion.png", title=title)
    files.seal(folder)


def _prepared(assignment: Assignment) -> Waveforms:
    """The recordings that the recipe is for. Stage 1 may be stored, so that nobody else would notice others, and the
    probe's classes would be theirs.
    """
    waveforms, recipe = _loaded(assignment.prepared), assignment.recipe
    if waveforms.fingerprint != recipe.fingerprint:
        raise Halted(
            f"The recordings or labels of {recipe.dataset} have changed since this sweep began: {assignment.prepared} "
            f"holds content {waveforms.fingerprint[:12]}, the sweep is over {recipe.fingerprint[:12]}. Put back what "
            "they were and run the same command again, or start a sweep under another --name."
        )
    return waveforms


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path) -> Waveforms:
    return audio.load(folder)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
