"""The record: one sweep, finished or not, as its folder tells it. It only reads, also while the sweep runs."""

import csv
import fcntl
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from audioconfit import files
from audioconfit.clock import PHASES
from audioconfit.errors import InputError
from sweeps.outcome import confirmation, race
from sweeps.outcome.selection import Candidate
from sweeps.request import left_out, resuming
from sweeps.tracking import journal
from sweeps.tracking.journal import End, Metrics, Outcome, Start
from sweeps.trial.assignment import AGAIN
from sweeps.trial.stages import StageStore
from sweeps.trial.usage import SHARE, SPEED

METHODS = ("finetune", "pairtune", "frozen")  # in the order of the paper's tables


@dataclass
class Run:
    """One run as the journal tells it: a trial, a finalist's fold or a confirmation. `outcome` None: it has no end."""

    key: str
    cell: str
    kind: str
    params: Mapping[str, str]
    began: int  # milliseconds since 1970
    ended: int = 0
    outcome: Outcome | None = None
    why: str | None = None
    last: dict[str, float] = field(default_factory=dict)  # each number's latest value
    epochs: set[int] = field(default_factory=set)

    @property
    def trained_epochs(self) -> int:
        """Of stage 1; none where another run had trained it."""
        shared = self.outcome is Outcome.COMPLETE and not self.last.get("trained_seconds")
        return 0 if shared else len(self.epochs)

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase; nothing of a run that left no result, or was run by an earlier version."""
        shares = {phase: self.last.get(SHARE.format(phase=phase)) for phase in PHASES}
        return {phase: share * self.last["seconds"] for phase, share in shares.items() if share is not None}


@dataclass(frozen=True)
class Record:
    """One sweep. `cells`: settings by name, of all that was asked for; `races` as race.json has them, by dataset."""

    folder: Path
    cells: Mapping[str, Mapping[str, Any]]
    candidates: Sequence[Candidate]
    runs: Sequence[Run]
    races: Mapping[str, Any]
    is_running: bool

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def store(self) -> StageStore:
        return StageStore(self.folder)

    @property
    def datasets(self) -> list[str]:
        return sorted({settings["dataset"] for settings in self.cells.values()})

    def rivals(self, dataset: str) -> list[Candidate]:
        """Of one task, the best first: in the race's standing, else by the mean validation score."""
        left = [one for one in self.candidates if one.dataset == dataset]
        standing = [one["cell"] for one in self.races.get(dataset, {}).get("finalists", [])]
        by_score = sorted(left, key=lambda one: (-one.valid, one.cost, one.cell))
        return sorted(by_score, key=lambda one: standing.index(one.cell) if one.cell in standing else len(standing))

    def left_out(self, dataset: str) -> Counter[tuple[str, str]]:
        """How many clips no trial learned, by backbone (empty: none can) and reason without its numbers."""
        path = left_out.folder_of(self.folder, dataset) / left_out.FILE
        if not path.exists():
            return Counter()
        with path.open(newline="") as file:
            return Counter((row["backbone"], row["reason"].partition(":")[0]) for row in csv.DictReader(file))

    def missing(self) -> list[str]:
        """What a finished sweep would have and this one has not, a sentence each."""
        said = ["The sweep is still running: these are the numbers so far."] if self.is_running else []
        there = {one.cell for one in self.candidates}
        if absent := [name for name in self.cells if name not in there]:
            said.append(f"Not confirmed on test: {', '.join(absent)}.")
        if unraced := [name for name in self.datasets if len(_longest(self.races.get(name, {}))) < 2]:
            said.append(f"No race over inner folds: {', '.join(unraced)}; one validation side alone decided there.")
        if failed := sum(run.outcome is Outcome.FAILED for run in self.runs):
            said.append(f"{failed} {'runs' if failed > 1 else 'run'} failed; the reasons are below.")
        single = [one.cell for one in self.candidates if len(one.runs) == 1]
        if single:
            said.append(f"Confirmed once only, so without a spread: {', '.join(single)}.")
        return said


def time_spent(runs: Iterable[Run]) -> tuple[dict[str, float], float | None]:
    """The seconds of these runs by phase, and the clips that they trained on per second of training."""
    seconds: Counter[str] = Counter()
    clips = 0.0
    for run in runs:
        seconds.update(run.phases)
        clips += run.last.get(SPEED, 0.0) * run.phases.get("training", 0.0)
    return dict(seconds), clips / seconds["training"] if clips else None


def _longest(raced: Mapping[str, Any]) -> Sequence[float]:
    return max((one["scores"] for one in raced.get("finalists", [])), key=len, default=[])


def read(folder: Path, *, ended: bool = False) -> Record:
    """The sweep in this folder. `ended`: it runs no more, though its driver, who asks, still holds it.

    InputError: none has begun there.
    """
    cells = resuming.recorded(folder)
    if not cells:
        raise InputError(f"No sweep has begun in {folder}; run it, or name another one with --name.")
    finished = (folder / confirmation.RECORD).exists()
    candidates = confirmation.recorded(folder) if finished else []
    races = files.read_json(folder / race.RECORD, AGAIN) if (folder / race.RECORD).exists() else {}
    return Record(folder, cells, sorted(candidates, key=order), _runs(folder), races, not ended and _is_running(folder))


def order(candidate: Candidate) -> tuple[str, str, int]:
    """As the paper's tables have it: by dataset, backbone and method."""
    return candidate.dataset, candidate.backbone, METHODS.index(candidate.method)


def _runs(folder: Path) -> list[Run]:
    """The journal's runs but those of cells; a last line that is half written, or damaged, is passed over."""
    path = folder / "tracking" / journal.EVENTS
    content = path.read_bytes() if path.exists() else b""
    found: dict[str, Run] = {}
    for event in journal.readable(content):
        run = found.get(event.key)
        match event:
            case Start() if event.cell is not None and run is None:
                found[event.key] = Run(event.key, event.cell, event.tags.get("kind", ""), event.params, event.time)
            case Metrics() if run is not None:
                run.last |= event.metrics
                if "loss" in event.metrics:
                    run.epochs.add(event.step)
            case End() if run is not None:
                run.ended, run.outcome, run.why = event.time, event.outcome, event.why
    return list(found.values())


def _is_running(folder: Path) -> bool:
    """Whether a driver on this machine holds the sweep."""
    path = folder / resuming.LEASE
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
