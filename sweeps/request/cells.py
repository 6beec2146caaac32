"""Cells: one backbone on one dataset by one method, and the space that a sweep searches in it. Plain data."""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audioconfit import backbones, choices, encoders, method, refusals, scores, splits
from audioconfit.backbones import BACKBONES
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe
from sweeps.request import searched
from sweeps.request.datasets import Task
from sweeps.request.plan import Plan
from sweeps.request.searched import Searched

# Standardised features reach their optimum between these rates; below it Adam is not done, above it validation falls.
PROBE_LR_RANGE = (3e-4, 3e-2)
# Of a space: what a cell's settings call by the same names.
NOTED = ("batch_sizes", "chunk_seconds", "probe_lr", "probe_layers")


@dataclass(frozen=True)
class Space:
    """What is searched, per cell. batch size and chunk duration are categorical: stage 1 is shared by trials that agree
    in them. `probe_layers`: none where only the last layer is read. `further`: what `--search` adds.
    """

    batch_sizes: tuple[int, ...]
    chunk_seconds: tuple[float, ...]
    probe_lr: tuple[float, float] = PROBE_LR_RANGE
    probe_layers: tuple[int | str, ...] = ()
    further: tuple[Searched, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Space":
        """The space of a cell whose settings were noted (`Cell.settings`)."""
        further = searched.parse(f"{name}={values}" for name, values in settings.get("search", {}).items())
        noted = {name: tuple(settings[name]) for name in NOTED if name in settings}
        return cls(**noted, further=further)

    @property
    def charted(self) -> dict[str, bool]:
        """What is searched beside batch, chunk and probe rate, and whether by its logarithm, for charts."""
        layer = {"probe_layer": False} if self.probe_layers else {}
        return layer | {one.name: one.log for one in self.further}

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """By name: the choices; of ranges a few values from end to end."""
        low, high = self.probe_lr
        found: dict[str, tuple[Any, ...]] = {
            "batch_size": self.batch_sizes,
            "chunk_seconds": self.chunk_seconds,
            "probe_lr": Searched("probe_lr", low=low, high=high, log=True).grid(),
        }
        if self.probe_layers:
            found["probe_layer"] = self.probe_layers
        return found | {one.name: one.grid() for one in self.further}

    def stage_count(self, trials: int) -> int:
        """How many different stage-1 runs a search of so many trials can need at most."""
        further = math.prod(one.count() for one in self.further if not one.name.startswith("probe"))
        return int(min(trials, len(self.batch_sizes) * len(self.chunk_seconds) * further))

    def first_guess(self) -> dict[str, Any]:
        """Where each search begins: the largest batch (contrast grows with it), the longest chunk, a middling probe
        rate.
        """
        low, high = self.probe_lr
        layer = {"probe_layer": "last"} if self.probe_layers else {}
        return layer | {
            "batch_size": max(self.batch_sizes),
            "chunk_seconds": max(self.chunk_seconds),
            "probe_lr": (low * high) ** 0.5,
        }


@dataclass(frozen=True)
class Cell:
    """A backbone, a dataset and a method; `base` holds every number of the recipe that is not searched.

    `mark` stands behind the backbone's last path name where another one's is the same (see tell_apart).
    """

    base: Recipe
    space: Space
    prepared: Path
    mark: str = ""

    @property
    def name(self) -> str:
        """Names the study, the MLflow run and the folder: safe in a path."""
        backbone = Path(self.base.backbone).name if "/" in self.base.backbone else self.base.backbone
        marked = f"{backbone}-{self.mark}" if self.mark else backbone
        return f"{marked}.{self.base.dataset}" + ("" if self.base.method == "pairtune" else f".{self.base.method}")

    @property
    def settings(self) -> dict[str, Any]:
        """All that its trials have in common, as JSON reads it back: where it differs, they cannot be compared."""
        noted = {name: getattr(self.space, name) for name in NOTED if getattr(self.space, name)}
        further = {one.name: one.values for one in self.space.further}
        drawn = ("batch_size", *noted, *further)
        fixed = {name: value for name, value in self.base.settings.items() if name not in drawn}
        return dict(json.loads(json.dumps(fixed | noted | ({"search": further} if further else {}))))

    @property
    def first_guess(self) -> dict[str, Any]:
        """Where its search begins: further numbers at the value that they would have unsearched, if that is allowed."""
        further = {one.name: one.guess(getattr(self.base, one.name)) for one in self.space.further}
        return self.space.first_guess() | further

    @property
    def tags(self) -> dict[str, str]:
        """What people filter by."""
        return {
            "cell": self.name,
            "dataset": self.base.dataset,
            "backbone": self.base.backbone,
            "method": self.base.method,
        }

    def key(self, number: int) -> str:
        """What one of its trials is called in files and in MLflow."""
        return f"{self.name}-{number:04d}"

    def recipe(self, suggested: dict[str, Any]) -> Recipe:
        """The recipe of one trial: the cell's own numbers and what the search suggests."""
        return self.base.model_copy(update=suggested)


def lay_out(plan: Plan, tasks: Sequence[Task]) -> list[Cell]:
    """The grid: every backbone on every dataset by every method.

    Raises:
        InputError: for a searched value that cannot work on some dataset, before anything is trained.
    """
    cells = []
    for task in tasks:
        for backbone in plan.backbones:
            space = _space(plan, task, backbone)
            for name in plan.methods:
                further = tuple(one for one in plan.searched if searched.is_read(one.name, name))
                cells.append(Cell(_base(plan, task, backbone, name), replace(space, further=further), task.prepared))
                _check(cells[-1], task)
                if (workers := plan.workers_per_trial) > (rows := min(space.batch_sizes)) and name != "frozen":
                    raise InputError(
                        f"A batch of {rows} leaves some of {workers} workers without a row; choose larger batches, or "
                        "fewer workers."
                    )
    return cells


def _check(cell: Cell, task: Task) -> None:
    """Every value that may be tried, and every two of them together: those that exclude each other fail as a trial."""
    values = cell.space.values
    for one, other in itertools.combinations(values, 2):
        for pair in itertools.product(values[one], values[other]):
            drawn = dict(zip((one, other), pair, strict=True))
            refusals.check(cell.recipe(cell.first_guess | drawn), task.waveforms)


def tell_apart(cells: Sequence[Cell], known: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """The cells under names of their own: of backbones whose last path names are alike, each bears a short hash of its
    whole path. `known`: the settings of earlier starts' cells by name; these keep their names.

    Raises:
        InputError: two cells cannot be told apart, for their backbones are one.
    """
    wanted = Counter(cell.name for cell in cells)
    named = [_named(cell, known, is_alone=wanted[cell.name] == 1) for cell in cells]
    by_name: dict[str, Cell] = {}
    for cell in named:
        other = by_name.setdefault(cell.name, cell)
        if other is not cell:
            raise InputError(
                f"Two cells are called {cell.name}: {_described(other)} and {_described(cell)}. "
                "Name each backbone once, or rename a folder."
            )
    return named


def _named(cell: Cell, known: Mapping[str, Mapping[str, Any]], *, is_alone: bool) -> Cell:
    marked = replace(cell, mark=_hash(_place(cell.base.backbone)))
    if marked.name in known:
        return marked
    if cell.name in known and _place(known[cell.name]["backbone"]) == _place(cell.base.backbone):
        return cell
    # The same weights under another path are no other backbone: they were moved, and resuming says so.
    is_free = cell.name not in known or known[cell.name].get("weights") == cell.base.weights
    return cell if cell.base.backbone in BACKBONES or (is_alone and is_free) else marked


def _place(backbone: str) -> str:
    """What a backbone's name stands for: of a folder its whole path."""
    is_folder = backbone not in BACKBONES and Path(backbone).is_dir()
    return str(Path(backbone).resolve()) if is_folder else backbone


def _hash(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:6]


def _described(cell: Cell) -> str:
    return f"{cell.base.backbone} on {cell.base.dataset} by {cell.base.method}"


def _base(plan: Plan, task: Task, backbone: str, method_name: str) -> Recipe:
    numbers: dict[str, Any] = {
        "dataset": task.dataset,
        "fingerprint": task.waveforms.fingerprint,
        "protocol": plan.protocol,
        "backbone": backbone,
        "weights": "" if plan.dry_run else encoders.fingerprint(backbone),  # a plan needs no network
        "method": method_name,
        "lr": plan.lr or backbones.find(backbone).lr,
        # Of a searched number the most: early stopping and forecasts count with it.
        "epochs": next((int(max(one.grid())) for one in plan.searched if one.name == "epochs"), plan.epochs),
        "seed": plan.seed,
        "probe": plan.probe,
        "metric": plan.metric and scores.fitting(plan.metric, multi_label=task.split.multi_label),
    }
    try:
        return Recipe.model_validate(numbers | plan.settings)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(f"--set {wrong['loc'][0]}={wrong['input']}: {wrong['msg']}.") from None


def _space(plan: Plan, task: Task, backbone: str) -> Space:
    kept, split = method.embeddable(backbone, task.waveforms), task.split
    all_layers = plan.settings.get("layers") == "all"
    if kept is not task.waveforms:
        split = splits.split(kept.corpus, protocol=plan.protocol)
    return Space(
        batch_sizes=plan.batch_sizes or choices.batch_sizes(split),
        chunk_seconds=plan.chunks or choices.chunk_seconds(kept, split),
        probe_layers=encoders.layers(backbone) if all_layers else (),
    )
