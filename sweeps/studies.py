"""Studies: one Optuna study per cell behind one Tune searcher. Optuna's storage is the truth, and a restart continues
from it.

Tune's own snapshots are stale after a kill, and its ASHA forgets its rungs, so both asking and early stopping go to the
studies: finished trials count, running ones are adopted again under the same key and go on from their checkpoint.
"""

import pickle
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.cells import Cell, Space
from sweeps.halving import Halving
from sweeps.hub import CANCELLED, Order
from sweeps.ledger import Ledger
from sweeps.trial import Assignment

# The early score that pruning compares, and the final one that the search maximises.
EARLY_SCORE, SCORE = "valid_knn", "valid_score"

STARTUP_TRIALS = 5  # drawn at random and run to the end, before TPE and pruning have enough to go by


@dataclass(frozen=True)
class Asked:
    """A trial that was asked: its study's handle, so that results find their way back, and its stage 1."""

    cell: Cell
    trial: optuna.trial.Trial
    stage: str


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {
        "batch_size": CategoricalDistribution(space.batch_sizes),
        "chunk_seconds": CategoricalDistribution(space.chunk_seconds),
        "probe_lr": FloatDistribution(*space.probe_lr, log=True),
    }


@dataclass(frozen=True)
class Budget:
    """When a search ends: so many trials per cell, no new one after some hours, nor in a cell that has converged."""

    trials: int
    hours: float | None = None
    converged: int | None = None  # so many complete trials in a row without a better score


class Studies(Searcher):
    """Asks the least served cell's study for the next trial; tells it how the trial went."""

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        budget: Budget,
        root: Path,
        storage: BaseStorage,
        seed: int = 0,
        early_stopping: bool = True,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.cells = {cell.name: cell for cell in cells}
        self.budget, self.root, self.seed = budget, root, seed
        self.early_stopping, self.micro_batch = early_stopping, micro_batch
        self.live: dict[str, Asked] = {}
        self.capacity: Callable[[], int] = lambda: 1
        self.interrupted = threading.Event()
        self.began = time.monotonic()
        self.ledgers = {cell.name: _open(cell, storage) for cell in cells}
        # Asked and not at work: from an earlier start, or until nobody is at their stage.
        self.held = [_asked(self.cells[name], one) for name, ledger in self.ledgers.items() for one in ledger.running()]
        self.asked = {name: len(self.history(cell)) for name, cell in self.cells.items()}
        self.stale = {name: _since_best(self.history(cell)) for name, cell in self.cells.items()}

    # What Tune calls.

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.interrupted.is_set() or not self.remaining():
            return Searcher.FINISHED
        # Never more trials than live slots: parameters asked early know less.
        if len(self.live) >= max(1, self.capacity()):
            return None
        asked = self._next()
        if asked is None:
            return None
        self.live[trial_id] = asked
        return {"cell": asked.cell.name, "number": asked.trial.number, "order": order(self.assignment(asked))}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if EARLY_SCORE in result and not result.get("ended"):
            asked = self.live[trial_id]
            self.ledgers[asked.cell.name].report(asked.trial, result[EARLY_SCORE], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked, result = self.live.pop(trial_id), result or {}
        name, ledger = asked.cell.name, self.ledgers[asked.cell.name]
        if result.get("failed") == CANCELLED:  # the hub hears of an interruption before its driver does
            self.interrupted.set()
        if self.interrupted.is_set() and not result.get("ended"):
            return  # not lost: it stays RUNNING and is adopted at the next start
        if error or result.get("failed"):
            ledger.tell(asked.trial, TrialState.FAIL)
        elif result.get("ended"):
            ledger.tell(asked.trial, TrialState.COMPLETE, result[SCORE], cost=result["cost"])
            self.stale[name] = 0 if ledger.study.best_trial.number == asked.trial.number else self.stale[name] + 1
        else:
            ledger.tell(asked.trial, TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it. Tune wants the file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("A sweep restarts from Optuna's storage, not from Tune's snapshot.")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into snapshots that nobody reads."""
        return {}

    # For the sweep.

    def assignment(self, asked: Asked) -> Assignment:
        """What a slot is to do for a trial."""
        return self._assignment(asked.cell, asked.trial.number, asked.trial.params)

    def ended(self) -> Iterator[tuple[Assignment, TrialState]]:
        """Every trial that has ended, as it was assigned, and how."""
        for cell in self.cells.values():
            for trial in self.history(cell):
                if trial.state.is_finished():
                    yield self._assignment(cell, trial.number, trial.params), trial.state

    def remaining(self) -> int:
        """How many trials are still to run or to finish."""
        return sum(self._left(name) for name in self.cells) + len(self.held)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial's own study would prune it now.

        Not the first of a cell, for halving two trials halves by chance; nor one that only fits a probe, for it has
        nothing to save.
        """
        unfinished = EARLY_SCORE in result and not result.get("ended")
        trial = self.live[trial_id].trial
        return self.early_stopping and unfinished and trial.number >= STARTUP_TRIALS and trial.should_prune()

    def history(self, cell: Cell) -> list[FrozenTrial]:
        """All trials of a cell, in order."""
        return self.ledgers[cell.name].trials

    def _assignment(self, cell: Cell, number: int, params: dict[str, Any]) -> Assignment:
        return Assignment(
            recipe=cell.recipe(params),
            prepared=cell.prepared,
            root=self.root,
            key=f"{cell.name}-{number:04d}",
            micro_batch=self.micro_batch,
        )

    def _left(self, name: str) -> int:
        """How many trials a cell may still ask for."""
        hours, converged = self.budget.hours, self.budget.converged
        if hours is not None and time.monotonic() - self.began > 3600 * hours:
            return 0
        if converged is not None and self.stale[name] >= converged:
            return 0
        return max(0, self.budget.trials - self.asked[name])

    def _next(self) -> Asked | None:
        """A trial whose stage 1 nobody is at, or its slot would stand idle; those that were asked before come first."""
        busy = {asked.stage for asked in self.live.values()}
        asked = next((asked for asked in self.held if asked.stage not in busy), None)
        if asked is not None:
            self.held.remove(asked)
            return asked
        while (asked := self._ask()) is not None and asked.stage in busy:
            self.held.append(asked)
        return asked

    def _ask(self) -> Asked | None:
        """Of the least served cell; of equals, of the one whose best score is the freshest. None: nothing is left."""
        open_cells = [name for name in self.cells if self._left(name)]
        if not open_cells:
            return None
        name = min(open_cells, key=lambda name: (self.asked[name], self.stale[name]))
        asked, space = self.asked[name], distributions(self.cells[name].space)
        # A seed per trial, from the history: a restart proposes what the undisturbed search would have, and never the
        # same point twice.
        sampler = KnownSpace(
            space,
            seed=zlib.crc32(f"{self.seed} {name} {asked}".encode()),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        self.asked[name] += 1
        return _asked(self.cells[name], self.ledgers[name].ask(space, sampler))


class KnownSpace(TPESampler):
    """TPE that is told its space: Optuna's own looks for it in every trial that was, at every ask."""

    def __init__(self, space: dict[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self.space = {name: distribution for name, distribution in space.items() if not distribution.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space


class StudyStopping(FIFOScheduler):
    """Early stopping as the trial's own study says (asynchronous successive halving): its rungs outlive a killed
    driver.
    """

    def __init__(self, studies: Studies, *, slots: int) -> None:
        super().__init__()
        self.studies, self.slots = studies, slots

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Tune keeps one idle actor at most unless trials are waiting for it, and ours never wait: without this every
        # second trial paid for a new process (measured: 2 to 10 s between trials of a busy slot).
        if self.slots:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self.slots)
            self.slots = 0
        super().on_trial_add(tune_controller, trial)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        # Tune tells the searcher after the scheduler, and pruning must see this result.
        self.studies.on_trial_result(trial.trial_id, result)
        stop = self.studies.should_stop(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}


def order(assignment: Assignment) -> Order:
    """An assignment as the hub takes it."""
    recipe = assignment.recipe
    work = pickle.dumps(assignment)
    return Order(assignment.key, work, stage=recipe.stage, warmth=f"{recipe.backbone} {recipe.fingerprint}")


def opened(order: Order) -> Assignment:
    """The assignment that an order carries."""
    assignment: Assignment = pickle.loads(order.work)
    return assignment


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage behind a URL: any of SQLAlchemy's, or `journal:PATH` for a journal file."""
    if url.startswith("journal:"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    connect = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return RDBStorage(url, engine_kwargs=connect)


def _asked(cell: Cell, trial: optuna.trial.Trial) -> Asked:
    return Asked(cell, trial, cell.recipe(trial.params).stage)


def _open(cell: Cell, storage: BaseStorage) -> Ledger:
    # A third of the epochs is always given; after that only the better half of what came so far goes on.
    pruner = Halving(first=max(1, cell.base.epochs // 3), epochs=cell.base.epochs)
    ledger = Ledger(cell.name, storage, pruner=pruner)
    ledger.suggest_first(cell.space.first_guess())
    return ledger


def _since_best(trials: Sequence[FrozenTrial]) -> int:
    """How many complete trials ended since the best one."""
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return len(values) - 1 - values.index(max(values)) if values else 0
