"""Studies: one Optuna study per cell, which cell is asked next, and when the search ends.

Optuna's storage is the truth, and a restart continues from it: finished trials count, running ones are adopted under
the same key and go on from their checkpoint, those that waited for a stage are asked first. Knows nothing of Ray;
tuning.py puts the studies behind Ray Tune.
"""

import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from audioconfit.errors import InputError
from sweeps import faults
from sweeps.identity import Identity
from sweeps.request.cells import Cell, Space
from sweeps.request.searched import Searched
from sweeps.search import ownership, ranking, samplers
from sweeps.search.durable_study import DurableStudy
from sweeps.search.halving import Halving
from sweeps.slots.job_queue import CANCELLED
from sweeps.trial.assignment import Assignment

# The early score that pruning compares, and the final score that the search maximises.
EARLY_SCORE, SCORE = "valid_knn", "valid_score"

HOPELESS_TRIALS = 5  # a cell whose first ones all fail for one reason is asked for no more
WHY, AGAIN = "why", "again"  # a trial's attributes: why it failed; the number of the failed one that it repeats
STARTUP_TRIALS = 5  # drawn at random and run to the end, before TPE and pruning have enough to go by


LONGEST_REASON = 200  # characters


@dataclass(frozen=True)
class Asked:
    """A trial that its cell's study proposed, the key of its stage 1, and whether it waits for that and never began."""

    cell: Cell
    trial: optuna.trial.Trial
    stage_key: str
    is_ahead: bool = False


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    searched: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution(space.batch_sizes),
        "chunk_seconds": CategoricalDistribution(space.chunk_seconds),
        "probe_lr": FloatDistribution(*space.probe_lr, log=True),
    }
    if space.probe_layers:
        searched["probe_layer"] = CategoricalDistribution(space.probe_layers)
    return searched | {one.name: _distribution(one) for one in space.further}


def _distribution(one: Searched) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


@dataclass(frozen=True)
class Budget:
    """When a search ends: trials per cell, hours after which none begins, and when a cell has converged."""

    trials: int
    hours: float | None = None
    converged: int | None = None  # complete trials in a row without a better score


@dataclass(frozen=True)
class Tally:
    """How a cell's trials have ended so far, and the best validation score among them."""

    complete: int
    pruned: int
    failed: int
    best: float | None


class Studies:
    """Asks the least served cell's study for the next trial, and tells it how the trial went.

    Running trials are known by the name that their runner gives them. `shared`: the storage is not the sweep's own.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        budget: Budget,
        root: Path,
        sweep: Identity,
        storage: BaseStorage,
        shared: bool,
        seed: int = 0,
        sampler: str = "tpe",
        early_stopping: bool = True,
        micro_batch: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.budget, self.root, self.seed, self.sampler = budget, root, seed, sampler
        self.early_stopping, self.micro_batch = early_stopping, micro_batch
        self.live: dict[str, Asked] = {}
        self.interrupted = threading.Event()
        self.began = time.monotonic()
        self.studies = {
            cell.name: self._open(cell, ownership.claim(cell, sweep, storage, folder=root, shared=shared), storage)
            for cell in cells
        }
        if retry_failed:
            for study in self.studies.values():
                for trial in _not_retried(study.trials):
                    study.repeat(trial, again=trial.number)
        # Asked but not running: from an earlier start, or waiting for a stage that another trial is training.
        self.held = [
            _asked(self.cells[name], trial) for name, study in self.studies.items() for trial in study.running()
        ]
        self.hopeless = {name: why for name, cell in self.cells.items() if (why := _hopeless(self.history(cell)))}
        self.asked = {
            name: sum(trial.state != TrialState.WAITING for trial in study.trials)
            for name, study in self.studies.items()
        }
        # All of them are asked above.
        self.repeats = {name: _repeats(study.trials) for name, study in self.studies.items()}
        self.stale = {name: _since_best(self.history(cell)) for name, cell in self.cells.items()}

    def start(self, name: str) -> Asked | None:
        """The next trial, which then runs under this name. None: none can start before another ends."""
        asked = self._next()
        if asked is not None:
            self.live[name] = asked
        return asked

    def report(self, name: str, result: Mapping[str, Any]) -> None:
        """An early score of a running trial; other results are passed over."""
        if _is_early(result):
            asked = self.live[name]
            self.studies[asked.cell.name].report(asked.trial, result[EARLY_SCORE], result["epoch"])

    def should_stop(self, name: str, result: Mapping[str, Any]) -> bool:
        """Whether the trial's own study would prune it now.

        Never the first trials of a cell, for halving two trials halves by chance; nor a trial that only fits a probe,
        for it has nothing to save.
        """
        trial = self.live[name].trial
        early = self.early_stopping and _is_early(result) and trial.number >= STARTUP_TRIALS
        return early and trial.should_prune()

    def finish(self, name: str, result: Mapping[str, Any], *, error: bool = False) -> None:
        """How a running trial ended: by its last result. An error is its runner's, and it runs again."""
        asked = self.live.pop(name)
        cell, study = asked.cell.name, self.studies[asked.cell.name]
        if result.get("failed") == CANCELLED:  # the queue hears of an interruption before its driver does
            self.interrupted.set()
        if self.interrupted.is_set() and not result.get("ended"):
            return  # not lost: it stays RUNNING and is adopted at the next start
        if error:
            self.held.insert(0, asked)
            return
        if result.get("failed"):
            study.tell(asked.trial, TrialState.FAIL, why=reason(result["failed"]))
        elif result.get("ended"):
            study.tell(asked.trial, TrialState.COMPLETE, result[SCORE], cost=result["cost"])
            self.stale[cell] = 0 if study.study.best_trial.number == asked.trial.number else self.stale[cell] + 1
        else:
            study.tell(asked.trial, TrialState.PRUNED)
        self.hopeless.pop(cell, None)  # until the one that ended now: it may have ended otherwise than those before it
        if why := _hopeless(self.history(asked.cell)):
            self.hopeless[cell] = why

    def assignment(self, asked: Asked) -> Assignment:
        """What a slot does for a trial."""
        return self._assignment(asked.cell, asked.trial.number, asked.trial.params)

    def ended(self) -> Iterator[tuple[Cell, int, Assignment, TrialState]]:
        """Every trial that has ended, by cell and number, as it was assigned, and how it ended."""
        for cell in self.cells.values():
            for trial in self.history(cell):
                if trial.state.is_finished():
                    yield cell, trial.number, self._assignment(cell, trial.number, trial.params), trial.state

    def remaining(self) -> int:
        """How many trials are still to run or to finish."""
        return sum(self._left(name) for name in self.cells) + len(self._held())

    def history(self, cell: Cell) -> list[FrozenTrial]:
        """All trials of a cell, in order."""
        return self.studies[cell.name].trials

    def tally(self, cell: Cell) -> Tally:
        """What the cell's trials have reached so far."""
        trials = self.history(cell)
        ended = {state: sum(trial.state == state for trial in trials) for state in TrialState}
        best = ranking.best_trial(trials)
        return Tally(
            ended[TrialState.COMPLETE],
            ended[TrialState.PRUNED],
            ended[TrialState.FAIL],
            None if best is None else best.value,
        )

    def _assignment(self, cell: Cell, number: int, params: dict[str, Any]) -> Assignment:
        return Assignment(
            recipe=cell.recipe(params),
            prepared=cell.prepared,
            root=self.root,
            key=cell.key(number),
            micro_batch=self.micro_batch,
        )

    def _is_over(self, name: str) -> bool:
        """Whether no trial of a cell begins any more, whatever its number of trials."""
        hours, converged = self.budget.hours, self.budget.converged
        return (
            name in self.hopeless
            or (hours is not None and time.monotonic() - self.began > 3600 * hours)
            or (converged is not None and self.stale[name] >= converged)
        )

    def _held(self) -> list[Asked]:
        """The held trials that may begin, or have begun."""
        return [asked for asked in self.held if not (asked.is_ahead and self._is_over(asked.cell.name))]

    def _left(self, name: str) -> int:
        """How many more trials a cell may ask for."""
        if self._is_over(name):
            return 0
        trials = self.budget.trials
        if self.sampler == samplers.GRID:
            trials = min(trials, samplers.points(self.cells[name].space))
        return max(0, trials - self.asked[name] + self.repeats[name])  # a trial that repeats another asks for no point

    def _next(self) -> Asked | None:
        """The next trial whose stage 1 is not already being trained; held trials first.

        One that must wait for a stage is held, but not many of them: a trial that is asked early is asked in ignorance
        of what those before it reach, and counts for the budget.
        """
        busy = {asked.stage_key for asked in self.live.values()}
        asked = next((asked for asked in self._held() if asked.stage_key not in busy), None)
        if asked is not None:
            if asked.is_ahead:
                self.studies[asked.cell.name].begin(asked.trial)
            self.held.remove(asked)
            return replace(asked, is_ahead=False)
        while len(self._held()) < 3 + len(self.live) // 4:
            asked = self._ask(busy)
            if asked is None or not asked.is_ahead:
                return asked
            self.held.append(asked)
        return None

    def _ask(self, busy: Set[str]) -> Asked | None:
        """A trial of the least served cell; of equals, of the cell that improved last. None: all trials were asked."""
        open_cells = [name for name in self.cells if self._left(name)]
        if not open_cells:
            return None
        name = min(open_cells, key=lambda name: (self.asked[name], self.stale[name]))
        cell, study, space = self.cells[name], self.studies[name], self.cells[name].space
        drawn, number = distributions(space), study.next_number
        if self.sampler == samplers.GRID:
            point = number - _repeats(study.trials[:number])
            sampler = samplers.grid(space, number=point, seed=zlib.crc32(f"{self.seed} {name}".encode()))
        else:
            # Seeded per trial: a restart proposes what the undisturbed search would have proposed, and no point twice.
            seed = zlib.crc32(f"{self.seed} {name} {number}".encode())
            sampler = samplers.of(self.sampler, drawn, seed=seed, startup_trials=STARTUP_TRIALS)
        self.asked[name] += 1
        trial = study.ask(drawn, sampler, waits=lambda point: cell.recipe(point).stage_key in busy)
        asked = _asked(cell, trial)
        return replace(asked, is_ahead=asked.stage_key in busy)

    def _open(self, cell: Cell, name: str, storage: BaseStorage) -> DurableStudy:
        # Every trial gets a third of the epochs; after that only the better half goes on.
        pruner = Halving(first=max(1, cell.base.epochs // 3), epochs=cell.base.epochs)
        study = DurableStudy(name, storage, pruner=pruner)
        if self.sampler != samplers.GRID:  # which comes by everything
            study.suggest_first(cell.first_guess)
        return study


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage behind a URL: any of SQLAlchemy's, or `journal:PATH` for a journal file."""
    connect = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        if url.startswith("journal:"):
            return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
        with faults.alone_with(url):
            return RDBStorage(url, engine_kwargs=connect)
    except Exception as error:  # no URL, a driver that is not installed, a database that is away or refuses us
        if faults.is_full(error):
            raise
        why = faults.masked(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        raise InputError(f"--optuna-storage: {faults.masked(url)} cannot be used ({why}).") from error


def reasons(trials: Sequence[FrozenTrial]) -> Counter[str]:
    """Why trials failed, and how many for each reason; of those that were run again the last time counts."""
    return Counter(trial.user_attrs.get(WHY, "unknown") for trial in _not_retried(trials))


def _repeats(trials: Sequence[FrozenTrial]) -> int:
    """How many of the trials repeat a failed one."""
    return sum(AGAIN in trial.user_attrs for trial in trials)


def _not_retried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The failed trials that no later one repeats, of those whose point is known (see rebuilding.py)."""
    again = {trial.user_attrs.get(AGAIN) for trial in trials}
    return [trial for trial in trials if trial.state == TrialState.FAIL and trial.params and trial.number not in again]


def _hopeless(trials: Sequence[FrozenTrial]) -> str | None:
    """Why a cell is asked for no more trials: all that have ended failed for one reason, and they are enough."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    found = reasons(trials)
    alike = len(found) == 1 and all(trial.state == TrialState.FAIL for trial in ended)
    return next(iter(found)) if alike and found.total() >= HOPELESS_TRIALS else None


def reason(why: str) -> str:
    """The first line without its numbers, so that alike reasons are one."""
    return re.sub(r"\d+(\.\d+)?", "#", why.strip().splitlines()[0])[:LONGEST_REASON]


def _asked(cell: Cell, trial: optuna.trial.Trial) -> Asked:
    return Asked(cell, trial, cell.recipe(trial.params).stage_key)


def _is_early(result: Mapping[str, Any]) -> bool:
    return EARLY_SCORE in result and not result.get("ended")


def _since_best(trials: Sequence[FrozenTrial]) -> int:
    """How many trials have completed since the best one did."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: trial.datetime_complete or datetime.min)
    values = [trial.value for trial in complete if trial.value is not None]
    return len(values) - 1 - values.index(max(values)) if values else 0
