"""The recipe: every number that changes a result, and the whole method for one cell in one process.

This is the one seam between the method and whatever runs it. `embed` is stage 1 (PairTune, FineTune or the frozen
backbone), `fit_probe` stage 2 on the frozen features, `evaluate` the only reader of test clips, `run` all three in a
row. Knows nothing of sweeps.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from audioconfit import encoders, features, finetune, pairtune, probe, ranks, scores, splits, training
from audioconfit.audio import Waveforms
from audioconfit.batches import Batches
from audioconfit.encoders import Encoder
from audioconfit.features import Features
from audioconfit.probe import Probe
from audioconfit.scores import Scores
from audioconfit.splits import Split

# Raised whenever the code's results change for the same recipe: old and new trials must not be compared.
RESULT_VERSION = 1

# How often the validation curve is read; more only costs time.
VALIDATIONS = 8
VALIDATION_SECONDS = 5.0

METHODS = ("pairtune", "finetune", "frozen")
Method = Literal["pairtune", "finetune", "frozen"]
Report = Callable[[int, dict[str, float]], bool]


class Recipe(BaseModel):
    """One trial, complete: equal recipes give equal results on one machine, bit for bit on CPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What is learned from: the corpus, its content hash, who is held out.
    dataset: str
    fingerprint: str
    protocol: str | None = None
    fold: int = Field(default=0, ge=0)

    # Stage 1.
    backbone: str
    weights: str = ""  # the content hash of a local folder's
    method: Method = "pairtune"
    batch_size: int = Field(default=32, ge=4)
    chunk_seconds: PositiveFloat = 3.0
    lr: PositiveFloat = 5e-5
    epochs: int = Field(default=40, ge=1)
    warmup_steps: int = Field(default=30, ge=0)
    temperature: PositiveFloat = 0.1
    mining: Literal["multi_similarity", "hardest", "none"] = "multi_similarity"
    margin: float = Field(default=0.1, ge=0)
    keep_denominator: bool = False
    projection_dim: PositiveInt = 256
    views: Literal[1, 2] = 1
    spec_augment: bool = False
    layer_drop: bool = False
    augment: tuple[Literal["speed", "gain", "noise", "time_mask"], ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it, else fp32
    seed: int = Field(default=0, ge=0)

    # Stage 2. These names begin with probe, and nothing else does: `stage` rests on it.
    probe: Literal["adam", "lbfgs"] = "adam"
    probe_lr: PositiveFloat = 3e-3
    probe_epochs: PositiveInt = 100

    version: int = RESULT_VERSION

    @property
    def signature(self) -> str:
        """The hash of every field: names the trial."""
        return _hash(self.model_dump(mode="json"))

    @property
    def stage(self) -> str:
        """The hash of all that stage 1 depends on: recipes that differ only in the probe share it.

        The frozen backbone is not trained, so that what only training reads is left out.
        """
        fields = {name: value for name, value in self.model_dump(mode="json").items() if not name.startswith("probe")}
        if self.method == "frozen":
            fields = {name: fields[name] for name in FROZEN_FIELDS}
        return _hash(fields)


# All that the features of an untouched backbone depend on.
FROZEN_FIELDS = (
    *("dataset", "fingerprint", "protocol", "fold"),
    *("backbone", "weights", "method", "chunk_seconds", "precision", "seed", "version"),
)


@dataclass(frozen=True)
class Stage:
    """What stage 1 leaves: the encoder, the frozen features of train and valid, the curve it took there."""

    encoder: Encoder
    train: Features
    valid: Features
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What one recipe reached. `test` is None until `evaluate` read it."""

    recipe: Recipe
    classes: tuple[str, ...]
    valid: Scores
    valid_knn: float
    test: Scores | None = None


def split_of(recipe: Recipe, waveforms: Waveforms) -> Split:
    """Who is held out under this recipe."""
    return splits.split(waveforms.corpus, protocol=recipe.protocol, fold=recipe.fold)


def check(recipe: Recipe, waveforms: Waveforms) -> None:
    """Refuses what cannot work before any expensive step: a chunk longer than every clip, a batch larger than the
    corpus.

    Raises:
        ValueError: with the value and the way out.
    """
    if recipe.fingerprint != waveforms.fingerprint:
        raise ValueError(
            f"The recipe is for {recipe.dataset} with content {recipe.fingerprint[:12]}, but the prepared corpus has "
            f"{waveforms.fingerprint[:12]}: its recordings or labels have changed. Start a sweep under another name."
        )
    longest = max(waveforms.seconds(clip.key) for clip in waveforms.corpus.clips)
    if recipe.chunk_seconds > longest:
        raise ValueError(
            f"A chunk of {recipe.chunk_seconds:g} s is longer than every clip of {recipe.dataset} (the longest has "
            f"{longest:.2f} s); choose chunks of at most {longest:.2f} s."
        )


def embed(
    recipe: Recipe,
    waveforms: Waveforms,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report | None = None,
    micro_batch: int | None = None,
) -> Stage | None:
    """Stage 1: train the encoder as the recipe says, then take the frozen features of train and valid.

    Args:
        checkpoint: where an interrupted stage 1 goes on from; written on the way.
        report: told (epoch, metrics) after each epoch, and (epoch, {}) in between as a sign of life; False stops.
        micro_batch: rows per forward pass when the batch does not fit the memory; exact, so no field of the recipe.

    Returns:
        The stage, or None where `report` asked to stop (the checkpoint is kept).
    """
    check(recipe, waveforms)
    split = split_of(recipe, waveforms)
    encoder = encoders.load(
        recipe.backbone, seed=recipe.seed, spec_augment=recipe.spec_augment, layer_drop=recipe.layer_drop
    ).to(device)
    curve: list[dict[str, float]] = []

    def told(epoch: int, metrics: dict[str, float]) -> bool:
        if metrics:
            curve.append(metrics)
        return report is None or report(epoch, metrics)

    if recipe.method != "frozen":
        run = {"checkpoint": checkpoint, "micro_batch": micro_batch or "auto"}
        if not _train(recipe, encoder, waveforms, split, device=device, report=told, **run):
            return None
    train, valid = (_extract(recipe, encoder, waveforms, split, side, device) for side in ("train", "valid"))
    return Stage(encoder, train, valid, curve)


def fit_probe(recipe: Recipe, train: Features, valid: Features, classes: tuple[str, ...]) -> tuple[Probe, Result]:
    """Stage 2: the linear probe on frozen features, scored on validation; the kNN probe beside it."""
    linear = probe.fit(
        train,
        valid,
        classes=classes,
        lr=recipe.probe_lr,
        epochs=recipe.probe_epochs,
        kind=recipe.probe,
        seed=recipe.seed,
    )
    return linear, Result(
        recipe,
        classes,
        valid=scores.score(valid.labels, linear.logits(valid.embeddings), classes),
        valid_knn=probe.fit_knn(train, valid, classes=classes).valid_accuracy,
    )


def features_of_test(recipe: Recipe, encoder: Encoder, waveforms: Waveforms, *, device: str = "cpu") -> Features:
    """The frozen features of the test clips. Asked for after selection only: nothing else opens them."""
    return _extract(recipe, encoder.to(device), waveforms, split_of(recipe, waveforms), "test", device)


def evaluate(result: Result, linear: Probe, test: Features) -> Result:
    """The result with its test score: the only place where test labels meet predictions."""
    return replace(result, test=scores.score(test.labels, linear.logits(test.embeddings), result.classes))


def run(recipe: Recipe, waveforms: Waveforms, *, device: str = "cpu", report: Report | None = None) -> Result | None:
    """The whole method for one recipe in one process: train, probe, read test. None where `report` asked to stop."""
    stage = embed(recipe, waveforms, device=device, report=report)
    if stage is None:
        return None
    classes = split_of(recipe, waveforms).classes
    linear, result = fit_probe(recipe, stage.train, stage.valid, classes)
    return evaluate(result, linear, features_of_test(recipe, stage.encoder, waveforms, device=device))


def audio_seconds(recipe: Recipe, waveforms: Waveforms) -> float:
    """What the recipe costs, in seconds of audio that stage 1 trains on: the same on every machine, so fit to break
    ties.
    """
    if recipe.method == "frozen":
        return 0.0
    steps = math.ceil(len(split_of(recipe, waveforms).train) / recipe.batch_size)
    return recipe.epochs * steps * recipe.batch_size * recipe.chunk_seconds


def metrics(result: Result) -> dict[str, float]:
    """The result as flat numbers, the way a tracker wants them. `valid_score` is what selection reads."""
    flat = _flat("valid", result.valid) | {"valid_knn": result.valid_knn}
    return flat if result.test is None else flat | _flat("test", result.test)


def _flat(side: str, found: Scores) -> dict[str, float]:
    numbers = {name: value for name, value in asdict(found).items() if isinstance(value, float)}
    return {f"{side}_{name}": value for name, value in {"score": found.headline, **numbers}.items()}


def summary(result: Result) -> dict[str, Any]:
    """The result as JSON, with its recipe, signature and confusion matrix."""
    shown = result.test or result.valid
    return {
        "signature": result.recipe.signature,
        "recipe": result.recipe.model_dump(mode="json"),
        "metrics": metrics(result),
        "classes": result.classes,
        "confusion": {"side": "valid" if result.test is None else "test", "counts": shown.confusion},
    }


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _train(
    recipe: Recipe, encoder: Encoder, waveforms: Waveforms, split: Split, *, device: str, report: Report, **run: Any
) -> bool:
    """The stage-1 method of the recipe, in place. False where `report` asked to stop."""
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
    loop: dict[str, Any] = {
        "lr": recipe.lr,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "warmup_steps": recipe.warmup_steps,
        "device": device,
        "precision": _precision(recipe, device),
        "validate": lambda epoch: _validate(recipe, encoder, waveforms, split, epoch, device),
        "report": report,
        **run,
    }
    if recipe.method == "finetune":
        return finetune.train(encoder, batches, **loop)
    return pairtune.train(
        encoder,
        batches,
        temperature=recipe.temperature,
        mining=recipe.mining,
        margin=recipe.margin,
        keep_denominator=recipe.keep_denominator,
        projection_dim=recipe.projection_dim,
        **loop,
    )


def _validate(
    recipe: Recipe, encoder: Encoder, waveforms: Waveforms, split: Split, epoch: int, device: str
) -> dict[str, float]:
    """The validation curve, read about VALIDATIONS times: nearest neighbours on the middle of each clip.

    They need no fit and do not depend on the probe's rate. The same stretch of each clip whatever the chunk, so that
    recipes with short chunks are not judged by less audio; not the whole clip, which costs several times the epochs it
    judges where clips are long.
    """
    every = max(1, recipe.epochs // VALIDATIONS)
    if epoch % every and epoch != recipe.epochs:
        return {}
    train, valid = (
        _extract(recipe, encoder, waveforms, split, side, device, middle_seconds=VALIDATION_SECONDS)
        for side in ("train", "valid")
    )
    return {"valid_knn": probe.fit_knn(train, valid, classes=split.classes).valid_accuracy}


def _extract(
    recipe: Recipe,
    encoder: Encoder,
    waveforms: Waveforms,
    split: Split,
    side: Literal["train", "valid", "test"],
    device: str,
    *,
    middle_seconds: float | None = None,
) -> Features:
    return features.extract(
        encoder,
        waveforms,
        getattr(split, side),
        classes=split.classes,
        multi_label=split.multi_label,
        chunk_seconds=recipe.chunk_seconds,
        middle_seconds=middle_seconds,
        device=device,
        precision=_precision(recipe, device),
    )


def _precision(recipe: Recipe, device: str) -> Literal["fp32", "bf16"]:
    return training.best_precision(device) if recipe.precision == "auto" else recipe.precision
