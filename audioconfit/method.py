"""The method: what runs a recipe. The one seam between the method's parts and whatever drives them.

`tune` is stage 1 (PairTune, FineTune or the frozen backbone), `fit_probe` stage 2 on the frozen features, `evaluate` is
the only reader of test clips, and `run` does all three in one process. Knows nothing of sweeps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from audioconfit import (
    bootstrap,
    encoders,
    features,
    finetune,
    folds,
    neighbours,
    pairtune,
    precision,
    predictions,
    probe,
    ranks,
    refusals,
    scores,
    splits,
    training,
)
from audioconfit.audio import Waveforms
from audioconfit.batches import Batches
from audioconfit.clock import Clock
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder, adapters
from audioconfit.errors import InputError
from audioconfit.features import Features
from audioconfit.neighbours import KnnProbe
from audioconfit.precision import Precision
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe
from audioconfit.results import Result
from audioconfit.splits import Split
from audioconfit.training import Settings

# How often the validation curve is read; more only costs time.
VALIDATIONS = 8
VALIDATION_SECONDS = 5.0

Report = Callable[[int, dict[str, float]], bool]


@dataclass(frozen=True)
class Stage:
    """What stage 1 leaves: the encoder, the frozen features of train and valid, the curve it took there, and FineTune's
    own head.
    """

    encoder: Encoder
    train: Features
    valid: Features
    curve: list[dict[str, float]] = field(default_factory=list)
    head: Probe | None = None


@dataclass(frozen=True)
class Probes:
    """The linear probe, which is handed over, the kNN probe beside it, and FineTune's own head."""

    linear: Probe
    knn: KnnProbe
    head: Probe | None = None


def embeddable(backbone: str, waveforms: Waveforms) -> Waveforms:
    """Without the clips that are shorter than the backbone's first frame; those are its last faults.

    Raises:
        InputError: a class is left without a clip.
    """
    try:
        return waveforms.at_least(encoders.receptive_field(backbone))
    except InputError as error:
        raise InputError(f"{backbone}: {error}") from None


def split_of(recipe: Recipe, waveforms: Waveforms) -> Split:
    """Who is held out under this recipe, of the clips that its backbone can embed."""
    kept = embeddable(recipe.backbone, waveforms)
    split = folds.of(splits.split(kept.corpus, protocol=recipe.protocol, fold=recipe.fold), recipe.inner_fold)
    return folds.joined(split) if recipe.refit else split


def tune(
    recipe: Recipe,
    waveforms: Waveforms,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report | None = None,
    micro_batch: int | None = None,
    clock: Clock | None = None,
) -> Stage | None:
    """Stage 1: train the encoder as the recipe says, then take the frozen features of train and valid.

    Args:
        checkpoint: where an interrupted stage 1 goes on from; written on the way.
        report: told (epoch, metrics) after each epoch, and (epoch, {}) in between as a sign of life; False stops the
            training, but no longer the features that follow on it.
        micro_batch: rows per forward pass when the batch does not fit the memory; exact, so no field of the recipe.
        clock: told what the time goes into.

    Returns:
        The stage, or None where `report` asked to stop (the checkpoint is kept).
    """
    refusals.check(recipe, waveforms)
    split = split_of(recipe, waveforms)
    encoder = encoders.load(
        recipe.backbone, seed=recipe.seed, spec_augment=recipe.spec_augment, layer_drop=recipe.layer_drop
    )
    if recipe.method != "frozen" and recipe.tune == "lora":
        adapters.attach(encoder, rank=recipe.lora_rank, seed=recipe.seed)
    encoder.to(device)
    curve: list[dict[str, float]] = []
    clock = clock or Clock()

    def told(epoch: int, metrics: dict[str, float]) -> bool:
        if metrics:
            curve.append(metrics)
        return report is None or report(epoch, metrics)

    head = None
    encoder.freeze(recipe.freeze)
    if recipe.method != "frozen":
        run = {"checkpoint": checkpoint, "micro_batch": micro_batch or "auto", "clock": clock}
        ended, head = _train(recipe, encoder, waveforms, split, device=device, report=told, **run)
        if not ended:
            return None
        adapters.merge(encoder)  # from here on it is a plain encoder, and the features are its own
    alive = training.alive(lambda: told(recipe.epochs, {}))
    extract = partial(_extract, recipe, encoder, waveforms, split, device=device, shared=True, alive=alive)
    with clock.phase("extraction"):
        train, valid = extract("train"), extract("valid")
    return Stage(encoder, train, valid, curve, head)


def fit_probe(
    recipe: Recipe,
    train: Features,
    valid: Features,
    split: Split,
    *,
    head: Probe | None = None,
    device: str = "cpu",
    alive: probe.Alive = lambda: None,
) -> tuple[Probes, Result]:
    """Stage 2: the linear probe on frozen features, scored on validation; the kNN probe, and the head that stage 1
    left, beside it. `alive` is called all the while, many times a second.

    The features may be those of another inner fold of the same split, as a frozen backbone's are: their rows are dealt
    out anew.
    """
    train, valid = features.dealt((train, valid), (split.train, split.valid))
    linear = _linear(recipe, train, valid, split, device=device, alive=alive)
    read = train.mixed(linear.layers), valid.mixed(linear.layers)
    knn = neighbours.fit(
        *read, classes=split.classes, k=recipe.probe_k, metric=recipe.metric, device=device, alive=alive
    )
    predicted = predictions.of(split.valid, valid.labels, linear.logits(valid.embeddings))
    return Probes(linear, knn, head), Result(
        recipe,
        split.classes,
        valid=scores.score(predicted.labels, predicted.logits, split.classes),
        valid_knn=knn.valid_score,
        k=knn.k,
        predictions={"valid": predicted},
        intervals={"valid": bootstrap.intervals(predicted)},
        head={} if head is None else {"valid": head.score(valid)},
    )


def score_by_layer(
    recipe: Recipe, train: Features, valid: Features, split: Split, *, device: str = "cpu", alive: probe.Alive
) -> dict[int | str, float]:
    """What the recipe's probe is worth on validation by the layer that it reads, higher being better."""
    train, valid = features.dealt((train, valid), (split.train, split.valid))
    found = {}
    for layer in encoders.layers(recipe.backbone):
        one = recipe.model_copy(update={"probe_layer": layer})
        linear = _linear(one, train, valid, split, device=device, alive=alive)
        found[layer] = linear.score(valid).under(recipe.metric)
    return found


def _linear(
    recipe: Recipe, train: Features, valid: Features, split: Split, *, device: str, alive: probe.Alive
) -> Probe:
    """The recipe's linear probe."""
    return probe.fit(
        train,
        valid,
        classes=split.classes,
        lr=recipe.probe_lr,
        epochs=recipe.probe_epochs,
        kind=recipe.probe,
        seed=recipe.seed,
        layer=recipe.probe_layer,
        balance=recipe.probe_balance,
        thresholds=recipe.probe_thresholds,
        metric=recipe.metric,
        device=device,
        alive=alive,
    )


def features_of_test(
    recipe: Recipe,
    encoder: Encoder,
    waveforms: Waveforms,
    *,
    device: str = "cpu",
    alive: probe.Alive = lambda: None,
) -> Features:
    """The frozen features of the test clips. Asked for after selection only: nothing else opens them."""
    split = split_of(recipe, waveforms)
    return _extract(recipe, encoder.to(device), waveforms, split, "test", device, alive=alive)


def evaluate(result: Result, probes: Probes, test: Features, split: Split, *, device: str = "cpu") -> Result:
    """The result with its test scores: the only place where test labels meet predictions."""
    predicted = predictions.of(split.test, test.labels, probes.linear.logits(test.embeddings))
    return replace(
        result,
        test=scores.score(predicted.labels, predicted.logits, result.classes),
        test_knn=probes.knn.score(test.mixed(probes.linear.layers), metric=result.recipe.metric, device=device),
        head=result.head if probes.head is None else {**result.head, "test": probes.head.score(test)},
        predictions={**result.predictions, "test": predicted},
        intervals={**result.intervals, "test": bootstrap.intervals(predicted)},
    )


def run(recipe: Recipe, waveforms: Waveforms, *, device: str = "cpu", report: Report | None = None) -> Result | None:
    """The whole method for one recipe in one process: train, probe, read test. None where `report` asked to stop."""
    stage = tune(recipe, waveforms, device=device, report=report)
    if stage is None:
        return None
    split = split_of(recipe, waveforms)
    probes, result = fit_probe(recipe, stage.train, stage.valid, split, device=device)
    test = features_of_test(recipe, stage.encoder, waveforms, device=device)
    return evaluate(result, probes, test, split, device=device)


def audio_seconds(recipe: Recipe, waveforms: Waveforms) -> float:
    """What the recipe costs, in seconds of audio that stage 1 trains on: the same on every machine, so fit to break
    ties.
    """
    if recipe.method == "frozen":
        return 0.0
    steps = math.ceil(len(split_of(recipe, waveforms).train) / recipe.batch_size)
    return recipe.epochs * steps * recipe.batch_size * recipe.chunk_seconds


def _train(
    recipe: Recipe, encoder: Encoder, waveforms: Waveforms, split: Split, *, device: str, report: Report, **run: Any
) -> tuple[bool, Probe | None]:
    """The stage-1 method of the recipe, in place: whether it came to its end, and FineTune's head."""
    batches = Batches(
        waveforms,
        split.train,
        split.classes,
        batch_size=recipe.batch_size,
        chunk_seconds=recipe.chunk_seconds,
        views=recipe.views,
        multi_label=split.multi_label,
        augment=recipe.augment,
        seed=recipe.seed,
        rank=ranks.rank(),
        world=ranks.world(),
        device=device,
    )
    finetuned = recipe.method == "finetune"
    steps = recipe.epochs * len(batches)
    head = finetune.new_head(encoder, batches.class_count, seed=recipe.seed) if finetuned else None
    settings = Settings(
        lr=recipe.lr,
        epochs=recipe.epochs,
        seed=recipe.seed,
        decay_steps=steps if recipe.schedule == "cosine" else 0,
        lr_decay=recipe.backbone_lr_decay,
        warmup_steps=recipe.warmup_steps if recipe.warmup is None else round(recipe.warmup * steps),
        device=device,
        precision=_precision(recipe, device),
        validate=lambda epoch: _validate(recipe, encoder, waveforms, split, epoch, device, head),
        report=report,
        **run,
    )
    if head is not None:
        if finetune.train(encoder, batches, settings, head=head) is None:
            return False, None
        layers = None if recipe.layers == "last" else probe.layer_weights("last", encoder.layer_count)
        return True, replace(probe.of_head(head, split.classes, multi_label=split.multi_label), layers=layers)
    ended = pairtune.train(
        encoder,
        batches,
        settings,
        temperature=recipe.temperature,
        mining=recipe.mining,
        margin=recipe.margin,
        keep_denominator=recipe.keep_denominator,
        projection_dim=recipe.projection_dim,
        layer=recipe.pair_layer,
    )
    return ended, None


def _validate(
    recipe: Recipe,
    encoder: Encoder,
    waveforms: Waveforms,
    split: Split,
    epoch: int,
    device: str,
    head: nn.Linear | None = None,
) -> dict[str, float]:
    """The validation curve, read about VALIDATIONS times: nearest neighbours on the middle of each clip, and beside
    them FineTune's own head, by which the paper may have judged it.

    Neighbours need no fit and do not depend on the probe's rate. The same stretch of each clip whatever the chunk, so
    that recipes with short chunks are not judged by less audio; not the whole clip, which costs several times the
    epochs it judges where clips are long; of `curve_clips` of each side where the recipe says so. A refit has no clips
    left to validate on.
    """
    every = max(1, recipe.epochs // VALIDATIONS)
    if recipe.refit or (epoch % every and epoch != recipe.epochs):
        return {}
    train, valid = (
        _extract(recipe, encoder, waveforms, split, side, device, middle_seconds=VALIDATION_SECONDS, shared=True)
        for side in ("train", "valid")
    )
    knn = neighbours.fit(train, valid, classes=split.classes, metric=recipe.metric, device=device)
    if head is None:
        return {"valid_knn": knn.valid_score}
    scored = probe.of_head(head, split.classes, multi_label=split.multi_label).score(valid)
    return {"valid_knn": knn.valid_score, "finetune_head_valid": scored.under(recipe.metric)}


def _extract(
    recipe: Recipe,
    encoder: Encoder,
    waveforms: Waveforms,
    split: Split,
    side: Literal["train", "valid", "test"],
    device: str,
    *,
    middle_seconds: float | None = None,
    shared: bool = False,  # among the ranks, all of which then call this
    alive: Callable[[], object] = lambda: None,
) -> Features:
    clips = getattr(split, side)
    return features.extract(
        encoder,
        waveforms,
        clips if middle_seconds is None else _drawn(clips, recipe.curve_clips),
        classes=split.classes,
        multi_label=split.multi_label,
        chunk_seconds=recipe.chunk_seconds,
        middle_seconds=middle_seconds,
        every_layer=recipe.layers == "all" and middle_seconds is None,  # the curve reads the last one
        device=device,
        precision=_precision(recipe, device),
        shared=shared,
        alive=alive,
    )


def _drawn(clips: Sequence[Clip], most: int | None) -> Sequence[Clip]:
    """The clips that the curve reads: all, or `most` of them, the same in every epoch, trial and seed."""
    if most is None or len(clips) <= most:
        return clips
    return [clips[number] for number in sorted(np.random.default_rng(0).permutation(len(clips))[:most])]


def _precision(recipe: Recipe, device: str) -> Precision:
    return precision.best(device) if recipe.precision == "auto" else recipe.precision
