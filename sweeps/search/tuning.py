"""The search phase: Ray Tune asks the studies and follows the trials; the tracker, the stage store and a listener hear
how they go.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps import faults
from sweeps.request.cells import Cell
from sweeps.search import ranking
from sweeps.search.studies import SCORE, Studies
from sweeps.search.trainable import Trial
from sweeps.slots.jobs import Jobs
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker
from sweeps.trial import assignment as assignments
from sweeps.trial.assignment import Assignment
from sweeps.trial.stages import StageStore

# A proxy takes no CPU from the slots, but Tune wants every trial to take a resource, and one of the driver's node.
PROXY_RESOURCES = {"node:__internal_head__": 0.001}
FLAT = "update/"
CAPACITY_SECONDS = 0.5  # Tune asks every second for every free place; the answer may be this old

OUTCOMES = {
    TrialState.COMPLETE: Outcome.COMPLETE,
    TrialState.PRUNED: Outcome.PRUNED,
    TrialState.FAIL: Outcome.FAILED,
}


class Listener(Protocol):
    """Hears how a cell's trials go, as the terminal does."""

    def started(self, cell: str) -> None: ...

    def ended(self, cell: str, outcome: Outcome, score: float | None = None) -> None: ...


class StudySearcher(Searcher):
    """The studies as Tune asks them. `capacity`: how many slots are up; `halt`: ends the sweep and says why."""

    def __init__(self, studies: Studies, capacity: Callable[[], int], halt: Callable[[str], None]) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.studies, self.capacity, self.halt = studies, capacity, halt

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.studies.interrupted.is_set():
            return Searcher.FINISHED
        if not self.studies.remaining():  # a trial that runs may yet be the best of its cell, whose search then goes on
            return None if self.studies.live else Searcher.FINISHED
        # Never more trials than live slots: a trial proposed early is proposed from fewer results.
        if len(self.studies.live) >= max(1, self.capacity()):
            return None
        asked = self.studies.start(trial_id)
        if asked is None:
            return None
        return {"cell": asked.cell.name, "number": asked.trial.number, "job": self.studies.assignment(asked).job()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: StudyStopping reports each result before it decides."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with _room(self.studies, self.halt):
            self.studies.finish(trial_id, _flat_update(result), error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it. Tune wants the file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("A sweep restarts from Optuna's storage, not from Tune's snapshot.")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into snapshots that nobody reads."""
        return {}


class StudyStopping(FIFOScheduler):
    """Early stopping as the trial's own study decides (asynchronous successive halving). Tune's ASHA forgets its rungs
    when a driver is killed; a study does not.
    """

    def __init__(self, studies: Studies, halt: Callable[[str], None], *, slots: int) -> None:
        super().__init__()
        self.studies, self.halt, self.slots = studies, halt, slots

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Tune keeps at most one idle actor unless trials are waiting for it, and ours never wait: without this every
        # second trial paid for a new process (measured: 2 to 10 s between the trials of a busy slot).
        if self.slots:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self.slots)
            self.slots = 0
        super().on_trial_add(tune_controller, trial)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        update, stop = _flat_update(result), False
        with _room(self.studies, self.halt):
            self.studies.report(trial.trial_id, update)
            stop = self.studies.should_stop(trial.trial_id, update)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass
class Record(tune.Callback):
    """Passes on what Tune's trials do: to the tracker, the stage store and the listener."""

    studies: Studies
    tracker: Tracker
    listener: Listener
    store: StageStore
    encoders_kept: int
    leading: dict[str, list[FrozenTrial]] = field(default_factory=dict)  # per cell, the trials that keep their encoders

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune puts its callbacks into snapshots that nobody reads, and these hold threads and databases."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cell, assignment = trial.config["cell"], assignments.unpack(trial.config["job"])
        _begin(self.tracker, self.studies.cells[cell], trial.config["number"], assignment)
        self.listener.started(cell)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        update = _update(result)
        if "epoch" in update:
            self.tracker.result(trial.config["job"].key, int(update["epoch"]), update)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cell, update = trial.config["cell"], _update(trial.last_result)
        assignment = assignments.unpack(trial.config["job"])
        if self.studies.interrupted.is_set() and not update.get("ended"):
            return  # it goes on at the next start, in the same MLflow run
        failed, ended = update.get("failed"), update.get("ended")
        outcome = Outcome.FAILED if failed else Outcome.COMPLETE if ended else Outcome.PRUNED
        why = f"{failed}\n{assignment.recipe!r}" if failed else None
        self.tracker.end(assignment.key, outcome, why=why, files=assignment.folder)
        self.listener.ended(cell, outcome, update.get(SCORE) if ended else None)
        self._tidy(self.studies.cells[cell], trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's own actor for it died more often than Tune tries; the trial is held, and goes on under another."""
        self.listener.ended(trial.config["cell"], Outcome.DROPPED)

    def _tidy(self, cell: Cell, number: int) -> None:
        """Keeps the best encoders and the latest checkpoints of pruned trials: disk grows with cells, not with trials.

        A trial that ended can only displace the leading ones; the trials of earlier starts are ranked once.
        """
        history = self.studies.history(cell)
        rivals = [*self.leading[cell.name], history[number]] if cell.name in self.leading else history
        ranked = ranking.by_score(rivals)
        stages = [cell.recipe(trial.params).stage_key for trial in ranked]
        self.store.keep_encoders(set(stages[: self.encoders_kept]), among=set(stages))
        self.leading[cell.name] = ranked[: self.encoders_kept]
        live = {asked.stage_key for asked in self.studies.live.values()}
        self.store.drop_checkpoints(keep=len(self.studies.cells), live=live)


def _begin(tracker: Tracker, cell: Cell, number: int, assignment: Assignment) -> None:
    """Tells of a trial that begins, or goes on."""
    recipe = assignment.recipe
    tracker.start(
        assignment.key,
        cell=cell.name,
        name=f"{number:03d} {cell.name}",  # the UI shows about 16 characters
        kind="trial",
        params=recipe.model_dump(mode="json") | {"signature": recipe.signature, "stage": recipe.stage_key},
        tags=cell.tags,
    )
    # Beside the rates themselves: the UI's axes are linear.
    rates = ("probe_lr", *(one.name for one in cell.space.further if one.log))
    logarithms = {f"log10_{name}": math.log10(getattr(recipe, name)) for name in rates}
    tracker.metrics(assignment.key, 0, logarithms)


@contextmanager
def _room(studies: Studies, halt: Callable[[str], None]) -> Iterator[None]:
    """Ends the sweep where the studies' storage is full. Raised into Tune, the error would be a trial's, and a
    traceback for the user; what the storage did not take is a trial that runs, and goes on at the next start.
    """
    try:
        yield
    except Exception as error:
        if not faults.is_full(error):
            raise
        halt(faults.make_room(studies.root, error))


def run(
    studies: Studies, record: Record, jobs: Jobs, *, slots: int, storage: Path, halt: Callable[[str], None]
) -> None:
    """Runs all trials that remain, and returns when they have ended. `halt` ends the sweep and says why."""
    tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, jobs=jobs), PROXY_RESOURCES),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            search_alg=StudySearcher(studies, _Cached(jobs.live_slots), halt),
            scheduler=StudyStopping(studies, halt, slots=slots),
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(storage),
            verbose=0,
            callbacks=[record],
            failure_config=tune.FailureConfig(max_failures=3),  # of a proxy; a trial's own failure is a result
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # nothing to save, 5 ms to save it
        ),
    ).fit()


def settle(studies: Studies, tracker: Tracker) -> None:
    """Tells MLflow of trials that Optuna saw end but a killed driver never reported, or whose lines in the journal are
    lost.
    """
    for cell, number, assignment, state in studies.ended():
        if state == TrialState.COMPLETE and assignment.key not in tracker.known and assignment.is_done:
            _begin(tracker, cell, number, assignment)
        if assignment.key not in tracker.begun:
            continue
        if state == TrialState.COMPLETE and assignment.is_done:
            tracker.metrics(assignment.key, assignment.recipe.epochs + 1, assignment.read_metrics())
        tracker.end(assignment.key, OUTCOMES[state], files=assignment.folder)


def _update(result: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The job's own numbers in Tune's result."""
    return (result or {}).get("update", {})


def _flat_update(result: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The same from a result as Tune's searcher and scheduler see it: flattened, with slashes in the names."""
    return {name.removeprefix(FLAT): value for name, value in (result or {}).items() if name.startswith(FLAT)}


class _Cached:
    """A slow answer, asked at most every CAPACITY_SECONDS."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self.ask, self.answer, self.asked_at = ask, 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() - self.asked_at > CAPACITY_SECONDS:
            self.answer, self.asked_at = self.ask(), time.monotonic()
        return self.answer
