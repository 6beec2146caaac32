"""The plan: what was asked for, as one plain value that JSON can hold. What each field is called on the command line
stands beside it; flags.py reads it from there.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from audioconfit import backbones, corpora
from audioconfit.backbones import BACKBONES
from audioconfit.corpora import Columns, hub
from audioconfit.recipe import METHODS, Metric
from sweeps.request import searched
from sweeps.request.searched import Searched

PAPER_BACKBONES = ("wav2vec2", "hubert", "wavlm")
# Numbers of the recipe that no other flag sets and no search varies.
SETTINGS = (
    *("temperature", "mining", "margin", "keep_denominator", "projection_dim", "pair_layer", "views"),
    *("warmup_steps", "warmup"),
    *("schedule", "backbone_lr_decay", "freeze", "tune", "lora_rank"),
    *("augment", "spec_augment", "layer_drop", "layers", "curve_clips", "precision", "probe_epochs", "probe_balance"),
)


class Group(StrEnum):
    """Under which heading of `--help` a flag stands."""

    LEARNED = "what is learned"
    SEARCH = "the search"
    RECIPE = "numbers of the recipe"
    PLACES = "where things are"
    MACHINES = "the machines"
    DATA = "missing and broken data"
    RUN = "kinds of run"


@dataclass(frozen=True)
class Flag:
    """A field on the command line: its heading, its help, what its value is called, and its name where that is not
    the field's.
    """

    group: Group
    help: str
    metavar: str | None = None
    name: str | None = None
    variable: str | None = None  # of the environment: read where the flag is not given


LEARNED, SEARCH, RECIPE, PLACES, MACHINES, DATA, RUN = Group

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Plan(BaseModel):
    """One sweep. The defaults are the paper's where it names them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: Annotated[
        tuple[str, ...],
        Flag(
            LEARNED,
            f"{', '.join(sorted(corpora.CORPORA))}, all of them ('all'), paths of your own data, or hub ids "
            "(org/name, org/name@revision)",
            "NAMES",
        ),
    ]
    backbones: Annotated[
        tuple[str, ...], Flag(LEARNED, "names, 'all' (the paper's three), Hugging Face ids or local folders", "NAMES")
    ] = PAPER_BACKBONES
    methods: Annotated[tuple[str, ...], Flag(LEARNED, f"of {', '.join(METHODS)}", "NAMES")] = ("pairtune",)
    protocol: Annotated[
        str | None, Flag(LEARNED, "another split than the corpus' own, such as leave_one_speaker_out", "NAME")
    ] = None
    label_column: Annotated[
        str | None, Flag(LEARNED, "of own tables, where no known name fits: what is to be learned", "NAME")
    ] = None
    group_column: Annotated[
        str | None, Flag(LEARNED, "of own tables: the speaker or source that is kept on one side of a split", "NAME")
    ] = None
    split_column: Annotated[str | None, Flag(LEARNED, "of own tables: train, valid or test", "NAME")] = None

    trials: Annotated[PositiveInt, Flag(SEARCH, "per cell (backbone x dataset x method)", "N")] = 30
    hours: Annotated[Positive | None, Flag(SEARCH, "of this start, after which no trial begins", "HOURS")] = None
    converged: Annotated[
        PositiveInt | None, Flag(SEARCH, "end a cell's search after N trials without a better score", "N")
    ] = None
    seeds: Annotated[
        PositiveInt, Flag(SEARCH, "of the confirmation on test; a corpus with official folds takes these instead", "N")
    ] = 3
    seed: Annotated[
        int,
        Field(ge=0),
        Flag(SEARCH, "of what the search draws, of training, and of the first run of the confirmation", "N"),
    ] = 0
    metric: Annotated[
        Metric | None,
        Flag(SEARCH, "what choices go by (default: accuracy; map where clips carry several labels)", "NAME"),
    ] = None
    select: Annotated[
        Literal["race", "holdout"] | None,
        Flag(
            SEARCH,
            "race: finalists on inner folds; holdout: the validation side alone (default: a race where it is small)",
            "HOW",
        ),
    ] = None
    retry_failed: Annotated[bool, Flag(SEARCH, "run failed trials again, beyond --trials")] = False
    refit: Annotated[bool, Flag(SEARCH, "train the champion once more on train and valid before it is handed over")] = (
        False
    )
    finalists: Annotated[PositiveInt, Flag(SEARCH, "of the race per task, at least one per cell", "N")] = 4
    batch_sizes: Annotated[
        tuple[int, ...] | None, Flag(SEARCH, "to choose from (default: 16,32,64 as far as the corpus goes)", "N,N,...")
    ] = None
    chunks: Annotated[
        tuple[float, ...] | None,
        Flag(SEARCH, "durations to choose from (default: by the lengths of the clips)", "SECONDS,..."),
    ] = None
    early_stopping: Annotated[bool, Flag(SEARCH, "run every trial to its end")] = True

    epochs: Annotated[PositiveInt, Flag(RECIPE, "of stage 1, each as many chunks as there are clips", "N")] = 40
    lr: Annotated[
        Positive | None,
        Flag(RECIPE, "of stage 1 (default: the paper's 5e-5; tiny backbones 1e-3, random ones 3e-3)", "RATE"),
    ] = None
    probe: Annotated[Literal["adam", "lbfgs"], Flag(RECIPE, "the linear probe's optimiser")] = "adam"
    settings: Annotated[
        dict[str, Any],
        Flag(RECIPE, f"any other number, repeatable: {', '.join(SETTINGS)}", "NAME=VALUE", name="set"),
    ] = Field(default_factory=dict)

    search: Annotated[
        tuple[str, ...],
        Flag(
            SEARCH,
            "other numbers that are searched, such as lr=1e-5..1e-3:log temperature=0.05,0.1 warmup=0..0.1; of "
            f"{', '.join(searched.SEARCHABLE)}",
            "NAME=VALUES",
        ),
    ] = ()
    sampler: Annotated[
        Literal["tpe", "gp", "random", "grid"],
        Flag(
            SEARCH,
            "what proposes trials; grid tries, as far as --trials reaches, every choice and "
            f"{searched.GRID_POINTS} values of each range",
        ),
    ] = "tpe"

    name: Annotated[str, Flag(PLACES, "of the sweep; the same name goes on where it stopped", "NAME")] = "sweep"
    data: Annotated[
        Path, Flag(PLACES, "folder with one folder per raw corpus", "FOLDER", variable="AUDIOCONFIT_DATA")
    ] = Path("data")
    storage: Annotated[
        Path,
        Flag(
            PLACES,
            "folder for prepared corpora, trials and results; on a cluster one that all nodes see",
            "FOLDER",
            variable="AUDIOCONFIT_STORAGE",
        ),
    ] = Path("storage")
    tracking_uri: Annotated[
        str | None,
        Flag(PLACES, "of MLflow (default: a database in the storage folder)", "URI", variable="MLFLOW_TRACKING_URI"),
    ] = None
    optuna_storage: Annotated[
        str | None,
        Flag(
            PLACES,
            "URL of a database, or journal:PATH (default: SQLite in the sweep's folder)",
            "URL",
            variable="AUDIOCONFIT_OPTUNA_STORAGE",
        ),
    ] = None
    keep_encoders: Annotated[
        PositiveInt, Flag(PLACES, "how many trials of each cell keep their encoder's weights", "N")
    ] = 1

    slots: Annotated[
        PositiveInt | None,
        Flag(MACHINES, "trials at a time (default: as many as the machines hold; on CPUs at most four a machine)", "N"),
    ] = None
    workers_per_trial: Annotated[PositiveInt, Flag(MACHINES, "Ray Train workers that share one trial", "N")] = 1
    gpus_per_worker: Annotated[
        float | None,
        Field(ge=0),
        Flag(MACHINES, "0.5: two workers share a GPU (default: 1 where there are GPUs)", "N"),
    ] = None
    cpus_per_worker: Annotated[Positive, Flag(MACHINES, "CPUs that Ray sets aside", "N")] = 1.0
    micro_batch: Annotated[
        PositiveInt | None, Flag(MACHINES, "rows per forward pass, exact (default: what fits the memory)", "N")
    ] = None
    patience_seconds: Annotated[
        Positive, Flag(MACHINES, "of silence after which a worker is replaced", "SECONDS", name="patience")
    ] = 900.0
    wait_seconds: Annotated[Positive, Flag(MACHINES, "to wait for the first slot", "SECONDS", name="wait")] = 900.0

    download: Annotated[bool, Flag(DATA, "fetch the corpora that are free")] = False
    skip_missing: Annotated[bool, Flag(DATA, "sweep over the corpora that are there")] = False
    allow_incomplete: Annotated[bool, Flag(DATA, "accept a corpus that lacks clips")] = False

    dry_run: Annotated[bool, Flag(RUN, "print what would run, and what it would cost, and stop")] = False
    demo: Annotated[bool, Flag(RUN, "generated corpora and tiny backbones, without a network")] = False

    @field_validator("backbones")
    @classmethod
    def _known_backbones(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError(f"No backbone; choose one of {', '.join(BACKBONES)}, a folder or a hub id.")
        for name in names:
            backbones.find(name)
        return names

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError(f"No method; choose from {', '.join(METHODS)}.")
        for name in names:
            if name not in METHODS:
                raise ValueError(f"Unknown method {name!r}; choose from {', '.join(METHODS)}.")
        return names

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} does not name a folder; choose letters, digits, '.', '_' and '-'.")
        return name

    @field_validator("batch_sizes")
    @classmethod
    def _room_for_pairs(cls, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if sizes and min(sizes) < 4:
            raise ValueError(f"A batch of {min(sizes)} holds no positive pair of two classes; choose 4 or more.")
        return sizes

    @field_validator("chunks")
    @classmethod
    def _positive_chunks(cls, chunks: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for chunk in chunks or ():
            if not 0 < chunk < float("inf"):
                raise ValueError(f"A chunk of {chunk:g} s is no duration; choose seconds above 0.")
        return chunks

    @field_validator("settings")
    @classmethod
    def _known_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """As the recipe holds them: JSON has no tuples."""
        for name in settings:
            if name not in SETTINGS:
                raise ValueError(f"Unknown setting {name!r}; choose one of {', '.join(SETTINGS)}.")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}

    @field_validator("search")
    @classmethod
    def _known_search(cls, words: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        found = searched.parse(words, info.data.get("methods", METHODS))
        fixed = {*info.data.get("settings", ()), *(name for name in ("lr",) if info.data.get(name) is not None)}
        for one in found:
            if one.name in fixed:
                raise ValueError(f"{one.name} is set and searched; leave one of the two.")
        return tuple(f"{one.name}={one.values}" for one in found)

    @property
    def searched(self) -> tuple[Searched, ...]:
        """What `search` says, read."""
        return searched.parse(self.search, self.methods)

    @property
    def columns(self) -> Columns:
        """Those of own tables that are named."""
        return Columns(self.label_column, self.group_column, self.split_column)

    @property
    def folder(self) -> Path:
        """Where this sweep keeps all that it must not lose."""
        return self.storage.absolute() / self.name

    @property
    def recordings(self) -> list[Path]:
        """The folders and files of raw recordings that exist on this machine."""
        own = [Path(name) for name in self.datasets if name not in corpora.CORPORA]
        below = [path for path in own if hub.is_id(str(path)) and not path.exists()]  # fetched into the data folder
        known = [self.data] if below or len(own) < len(self.datasets) else []
        return [path.absolute() for path in (*known, *own) if path.exists()]
