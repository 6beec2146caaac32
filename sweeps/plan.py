"""The plan: what a user asked for on the command line, validated before anything runs."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from audioconfit import corpora, encoders
from audioconfit.recipe import METHODS

ALL = "all"
PAPER_BACKBONES = ("wav2vec2", "hubert", "wavlm")
# Numbers of the recipe that no other flag sets and no search varies.
SETTINGS = (
    *("temperature", "mining", "margin", "keep_denominator", "projection_dim", "views", "warmup_steps"),
    *("augment", "spec_augment", "layer_drop", "precision", "probe_epochs"),
)

# What a cluster's nodes set once, so that the same command works on a laptop, on the head and as a job.
FROM_ENVIRONMENT = {
    "data": "AUDIOCONFIT_DATA",
    "storage": "AUDIOCONFIT_STORAGE",
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "optuna_storage": "AUDIOCONFIT_OPTUNA_STORAGE",
}
ENVIRONMENT = dict(os.environ)  # as the user set it: MLflow writes its variable itself


class Plan(BaseModel):
    """One sweep. The defaults are the paper's where it says them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: tuple[str, ...]
    backbones: tuple[str, ...] = PAPER_BACKBONES
    methods: tuple[str, ...] = ("pairtune",)
    data: Path = Path("data")
    storage: Path = Path("storage")
    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    tracking_uri: str | None = None

    trials: int = Field(default=30, ge=1)
    epochs: int = Field(default=40, ge=1)
    seeds: int = Field(default=3, ge=1)
    batch_sizes: tuple[int, ...] | None = None
    chunks: tuple[float, ...] | None = None
    lr: float | None = Field(default=None, gt=0)
    protocol: str | None = None
    probe: Literal["adam", "lbfgs"] = "adam"
    settings: dict[str, Any] = Field(default_factory=dict)
    early_stopping: bool = True

    slots: int | None = Field(default=None, ge=1)
    workers_per_trial: int = Field(default=1, ge=1)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    cpus_per_worker: float = Field(default=1.0, gt=0)
    micro_batch: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    converged: int | None = Field(default=None, ge=1)
    keep_encoders: int = Field(default=1, ge=1)
    optuna_storage: str | None = None
    patience_seconds: float = Field(default=900.0, gt=0)
    wait_seconds: float = Field(default=900.0, gt=0)

    allow_incomplete: bool = False
    skip_missing: bool = False
    download: bool = False
    dry_run: bool = False
    demo: bool = False

    @field_validator("backbones")
    @classmethod
    def _known_backbones(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            encoders.backbone(name)
        return names

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
        return names

    @field_validator("batch_sizes")
    @classmethod
    def _room_for_pairs(cls, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if sizes and min(sizes) < 4:
            raise ValueError(f"a batch of {min(sizes)} holds no positive pair of two classes; choose 4 or more")
        return sizes

    @field_validator("chunks")
    @classmethod
    def _positive_chunks(cls, chunks: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if chunks and min(chunks) <= 0:
            raise ValueError(f"a chunk of {min(chunks):g} s is no duration; choose seconds above 0")
        return chunks

    @field_validator("settings", mode="before")
    @classmethod
    def _known_settings(cls, words: list[str]) -> dict[str, Any]:
        for word in words:
            name, equals, _ = word.partition("=")
            if not equals or name not in SETTINGS:
                raise ValueError(f"{word!r} is not NAME=VALUE with one of {', '.join(SETTINGS)}")
        return {name: _value(name, text) for name, _, text in (word.partition("=") for word in words)}

    @property
    def folder(self) -> Path:
        """Where this sweep keeps all that it must not lose."""
        return self.storage.absolute() / self.name

    @property
    def recordings(self) -> list[Path]:
        """Where the raw recordings lie that are here."""
        own = [Path(name) for name in self.datasets if name not in corpora.CORPORA]
        known = [self.data] if len(own) < len(self.datasets) else []
        return [path.absolute() for path in (*known, *own) if path.exists()]


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = ENVIRONMENT) -> Plan:
    """The plan of a command line; FROM_ENVIRONMENT fills in what it leaves out.

    Raises:
        ValueError: one line per thing that is wrong, each with the value and the way out.
    """
    given = vars(_parser().parse_args(arguments))
    said = {name: environment[variable] for name, variable in FROM_ENVIRONMENT.items() if environment.get(variable)}
    values = said | {name: value for name, value in given.items() if value is not None}
    if values.get("demo"):
        values = DEMO | values
    if "datasets" not in values:
        raise ValueError(
            "say what to learn: --datasets all, --datasets emodb,esc50, a path of your own, "
            "or --demo to see it work without data"
        )
    values["datasets"] = _expand(values["datasets"], tuple(sorted(corpora.CORPORA)))
    values["backbones"] = _expand(values.get("backbones", ALL), PAPER_BACKBONES)
    for several, kind in (("methods", str), ("batch_sizes", int), ("chunks", float)):
        if several in values:
            values[several] = _list(values[several], several, kind)
    try:
        return Plan(**values)
    except ValidationError as error:
        raise ValueError("\n".join(_sentence(problem) for problem in error.errors())) from None


# Small enough for five minutes on two cores, large enough to show every part at work.
DEMO: dict[str, Any] = {
    "datasets": "timit,esc50",
    "backbones": "wav2vec2-tiny,wavlm-tiny",
    "name": "demo",
    "trials": 4,
    "epochs": 14,
    "batch_sizes": "16,32",
    "seeds": 2,
}


def _expand(names: str, everything: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    return everything if chosen == (ALL,) else tuple(dict.fromkeys(chosen))


def _list(text: str, name: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        flag = name.replace("_", "-")
        raise ValueError(f"--{flag}: {text!r} is not a comma separated list of numbers; try --{flag} 16,32") from None


def _value(name: str, text: str) -> Any:
    """A setting's text as the recipe wants it: a list of augmentations, a number, true or false, else a word."""
    if name == "augment":
        return tuple(text.split(","))
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sentence(problem: Any) -> str:
    flag = "--" + str(problem["loc"][0]).replace("_", "-").removesuffix("-seconds")
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
    return f"{flag}: {message[0].lower()}{message[1:]}{value}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/grid.py",
        description="Sweep a grid of backbones x datasets: search, confirm on test, register the best probe per task. "
        "The same command with the same --name goes on where it stopped.",
        argument_default=None,
    )
    what = parser.add_argument_group("what to learn")
    known = ", ".join(sorted(corpora.CORPORA))
    what.add_argument("--datasets", help=f"names ({known}), 'all', or paths of your own data")
    what.add_argument("--backbones", help="names, 'all' (the paper's three), Hugging Face ids or local folders")
    what.add_argument("--methods", help=f"of {', '.join(METHODS)}; default pairtune")
    what.add_argument("--data", help="the folder with one folder per raw corpus; default $AUDIOCONFIT_DATA or data")
    what.add_argument("--protocol", help="another split than the corpus' default")
    what.add_argument("--demo", action="store_true", default=None, help="generated corpora, tiny backbones, no network")

    how = parser.add_argument_group("how much")
    how.add_argument("--trials", help="per cell; default 30")
    how.add_argument("--epochs", help="of stage 1; default 40, the paper's")
    how.add_argument("--seeds", help="of the confirmation on test; default 3 (ESC-50: its five folds)")
    how.add_argument("--hours", help="after which no new trial begins")
    how.add_argument("--converged", help="end a cell's search after so many trials without a better score")
    how.add_argument("--batch-sizes", help="to search, comma separated; default 16,32,64")
    how.add_argument("--chunks", help="chunk durations in seconds to search; default follows the clips' lengths")
    how.add_argument("--lr", help="of stage 1; default 5e-5, the paper's (tiny ones: 1e-3, random: 3e-3)")
    how.add_argument("--probe", choices=("adam", "lbfgs"), help="the linear probe's optimiser; default adam")
    how.add_argument(
        "--set",
        dest="settings",
        action="append",
        metavar="NAME=VALUE",
        help=f"another number of the recipe: {', '.join(SETTINGS)}; e.g. --set mining=hardest --set temperature=0.07",
    )
    how.add_argument("--no-early-stopping", dest="early_stopping", action="store_false", default=None)

    where = parser.add_argument_group("where")
    where.add_argument("--name", help="of the sweep; the same name goes on with it; default sweep")
    where.add_argument(
        "--storage",
        help="folder for prepared corpora, trials, results, on a cluster one that all nodes see; "
        "default $AUDIOCONFIT_STORAGE or storage",
    )
    where.add_argument(
        "--tracking-uri", help="of MLflow; default $MLFLOW_TRACKING_URI or a database in the storage folder"
    )
    where.add_argument(
        "--optuna-storage",
        help="URL of a database, or journal:PATH; default $AUDIOCONFIT_OPTUNA_STORAGE or SQLite in the sweep's folder",
    )
    where.add_argument("--keep-encoders", help="how many trials of each cell keep their encoder's weights; default 1")
    where.add_argument("--slots", help="trials at a time; default as many as the machine or cluster holds")
    where.add_argument("--workers-per-trial", help="Train workers that share one trial; default 1")
    where.add_argument("--gpus-per-worker", help="fractions share a GPU; default 1 where there are GPUs")
    where.add_argument("--cpus-per-worker", help="default 1")
    where.add_argument("--micro-batch", help="rows per forward pass, when a batch does not fit; exact")
    where.add_argument("--patience", dest="patience_seconds", help="seconds of silence that mean a worker hangs")
    where.add_argument("--wait", dest="wait_seconds", help="seconds to wait for the first slot; default 900")

    data = parser.add_argument_group("missing and broken data")
    data.add_argument("--download", action="store_true", default=None, help="fetch the corpora that are free")
    data.add_argument("--skip-missing", action="store_true", default=None, help="sweep over the corpora that are there")
    data.add_argument("--allow-incomplete", action="store_true", default=None, help="accept a corpus that lacks clips")
    parser.add_argument("--dry-run", action="store_true", default=None, help="print the plan and stop")
    return parser
