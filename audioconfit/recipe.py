"""The recipe: every number that changes a result, as plain data. What runs a recipe is in method.py."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

# Raised whenever the same recipe gives other results: old and new trials must not be compared.
RESULT_VERSION = 1

METHODS = ("pairtune", "finetune", "frozen")
Method = Literal["pairtune", "finetune", "frozen"]
Metric = Literal["accuracy", "uar", "macro_f1", "map", "log_loss"]
# What a probe reads where features have every layer: one of them (0 is what enters the first), the mean of all, or
# their mean by weights that it learns.
Layer = Annotated[int, Field(ge=0)] | Literal["last", "mean", "weighted"]

Balance = Literal["none", "weights", "sampling"]


class Recipe(BaseModel):
    """Everything about one trial: equal recipes give equal results on one machine, bit for bit on a CPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What is learned from: the corpus, its content hash, who is held out. `inner_fold` k validates on the k-th fold of
    # the development clips (folds.py); 0 is the protocol's own validation side.
    dataset: str
    fingerprint: str
    protocol: str | None = None
    fold: int = Field(default=0, ge=0)
    inner_fold: int = Field(default=0, ge=0)
    metric: Metric | None = None  # what choices go by; None: the task's own (scores.fitting)
    refit: bool = False  # train on the validation clips as well, to be handed over and not to be chosen
    layers: Literal["last", "all"] = "last"  # whose embeddings stage 1 leaves for the probe to choose from

    # Stage 1.
    backbone: str
    weights: str = ""  # the content hash of a local folder
    method: Method = "pairtune"
    batch_size: int = Field(default=32, ge=4)
    chunk_seconds: PositiveFloat = 3.0
    lr: PositiveFloat = 5e-5
    epochs: int = Field(default=40, ge=1)
    warmup_steps: int = Field(default=30, ge=0)
    warmup: float | None = Field(default=None, ge=0, le=1)  # a share of all steps, in place of warmup_steps
    schedule: Literal["constant", "cosine"] = "constant"  # after warm-up; cosine: to 0 at the last step
    backbone_lr_decay: float = Field(default=1.0, gt=0, le=1)  # of the rate from each layer to the one below it
    freeze: Annotated[int, Field(ge=0)] | Literal["conv"] | None = None  # what stays as it was: encoder.Encoder.freeze
    tune: Literal["full", "lora"] = "full"  # the weights, or adapters beside them (encoders/adapters.py)
    lora_rank: PositiveInt = 8
    temperature: PositiveFloat = 0.1
    mining: Literal["multi_similarity", "hardest", "none"] = "multi_similarity"
    margin: float = Field(default=0.1, ge=0)
    keep_denominator: bool = False
    projection_dim: PositiveInt = 256
    pair_layer: Layer = "last"  # which the contrastive loss reads
    views: Literal[1, 2] = 1
    spec_augment: bool = False
    layer_drop: bool = False
    augment: tuple[Literal["speed", "gain", "noise", "time_mask"], ...] = ()
    curve_clips: PositiveInt | None = None  # of each side that the validation curve reads, the same ones always; all
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: what the device is best at (precision.best)
    seed: int = Field(default=0, ge=0)

    # Stage 2. These names begin with probe, and no others do: `stage_key` relies on it.
    probe: Literal["adam", "lbfgs"] = "adam"
    probe_lr: PositiveFloat = 3e-3
    probe_epochs: PositiveInt = 100
    probe_layer: Layer = "last"
    probe_balance: Balance = "none"  # of training classes of unlike size
    # Of a refit, which has no clips left to choose them on: those of its folds.
    probe_thresholds: tuple[float, ...] | None = None  # by class, of label sets
    probe_k: PositiveInt | None = None

    version: int = RESULT_VERSION

    @property
    def settings(self) -> dict[str, Any]:
        """Every field as JSON, but of those that came after the first stored sweeps only what says something: a recipe
        is the one that it was before.
        """
        fields = self.model_dump(mode="json").items()
        return {name: value for name, value in fields if name not in LATER or value != LATER[name]}

    @property
    def signature(self) -> str:
        """The hash of every field: names the trial."""
        return _hash(self.settings)

    @property
    def stage_key(self) -> str:
        """The hash of everything that stage 1 depends on: recipes that differ only in the probe share it.

        A frozen backbone is not trained, so fields that only training reads are left out, and its features serve every
        inner fold.
        """
        fields = {name: value for name, value in self.settings.items() if not name.startswith("probe")}
        if self.method == "frozen":
            fields = {name: fields[name] for name in FROZEN_FIELDS if name in fields}
        return _hash(fields)


# Everything that the features of an untouched backbone depend on.
FROZEN_FIELDS = (
    *("dataset", "fingerprint", "protocol", "fold"),
    *("backbone", "weights", "method", "chunk_seconds", "precision", "seed", "version", "layers"),
)


LATER = {
    "inner_fold": 0,
    "metric": None,
    "refit": False,
    "layers": "last",
    "warmup": None,
    "schedule": "constant",
    "backbone_lr_decay": 1.0,
    "freeze": None,
    "curve_clips": None,
    "tune": "full",
    "lora_rank": 8,
    "pair_layer": "last",
    "probe_layer": "last",
    "probe_balance": "none",
    "probe_thresholds": None,
    "probe_k": None,
}  # fields that came after the first stored sweeps, and what they were before


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
