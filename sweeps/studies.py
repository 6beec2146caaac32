"""Studies: one Optuna study per cell behind one Tune searcher. Optuna's storage is the truth, and a restart continues
from it.

Tune's own snapshots are stale after a kill, and its ASHA forgets its rungs, so both asking and early stopping go to the
studies: finished trials count, running ones are adopted again under the same key and go on from their checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.cells import Cell, Space
from sweeps.hub import Order
from sweeps.trial import Assignment

optuna.logging.set_verbosity(optuna.logging.ERROR)

# The early score that pruning compares, and the final one that the search maximises.
EARLY_SCORE, SCORE = "valid_knn", "valid_score"


@dataclass(frozen=True)
class Asked:
    """A trial that Tune was given: its study's handle, so that results find their way back."""

    cell: Cell
    trial: optuna.trial.Trial


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {
        "batch_size": CategoricalDistribution(space.batch_sizes),
        "chunk_seconds": CategoricalDistribution(space.chunk_seconds),
        "probe_lr": FloatDistribution(*space.probe_lr, log=True),
    }


class Studies(Searcher):
    """Asks the least served cell's study for the next trial; tells it how the trial went."""

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        trials: int,
        root: Path,
        url: str,
        seed: int = 0,
        early_stopping: bool = True,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.cells = {cell.name: cell for cell in cells}
        self.trials, self.root, self.seed, self.early_stopping = trials, root, seed, early_stopping
        self.micro_batch = micro_batch
        self.live: dict[str, Asked] = {}
        self.capacity: Callable[[], int] = lambda: 1
        self.closing = False
        connect = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        storage = RDBStorage(url, engine_kwargs=connect)
        self.studies = {cell.name: self._open(cell, storage, number) for number, cell in enumerate(cells)}
        self.orphans = [
            Asked(self.cells[name], optuna.trial.Trial(study, trial._trial_id))
            for name, study in self.studies.items()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ]
        self.asked = {
            name: sum(counts(trial) for trial in study.get_trials(deepcopy=False))
            for name, study in self.studies.items()
        }

    def _open(self, cell: Cell, storage: RDBStorage, number: int) -> optuna.Study:
        study = optuna.create_study(study_name=cell.name, storage=storage, direction="maximize", load_if_exists=True)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _whole(trial):  # the driver was killed inside ask()
                study.tell(trial.number, state=TrialState.FAIL)
        old = study.get_trials(deepcopy=False)
        if not old:
            study.enqueue_trial(cell.space.first_guess())
        # The seed depends on the history: with a fixed one a resumed study would propose the same points again.
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + 1000 * number + len(old), n_startup_trials=5, multivariate=True, constant_liar=True
        )
        # A third of the budget is always given; after that only the better half of what came so far goes on.
        study.pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, cell.base.epochs // 3), reduction_factor=2
        )
        return study

    # What Tune calls.

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.closing or not self.remaining():
            return Searcher.FINISHED
        # Never more trials than live slots: parameters asked early know less.
        if len(self.live) >= max(1, self.capacity()):
            return None
        asked = self.live[trial_id] = self.orphans.pop(0) if self.orphans else self._ask()
        cell, number = asked.cell, asked.trial.number
        assignment = Assignment(
            recipe=cell.recipe(asked.trial.params),
            prepared=cell.prepared,
            root=self.root,
            key=f"{cell.name}-{number:04d}",
            micro_batch=self.micro_batch,
        )
        return {"cell": cell.name, "number": number, "order": order(assignment)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if EARLY_SCORE in result and not result.get("ended"):
            self.live[trial_id].trial.report(result[EARLY_SCORE], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked, result = self.live.pop(trial_id), result or {}
        study = self.studies[asked.cell.name]
        if self.closing and not result.get("ended"):
            return  # interrupted, not lost: it stays RUNNING and is adopted at the next start
        if error or result.get("failed"):
            study.tell(asked.trial, state=TrialState.FAIL)
        elif result.get("ended"):
            asked.trial.set_user_attr("cost", result["cost"])
            study.tell(asked.trial, result[SCORE])
        else:
            study.tell(asked.trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it. Tune wants the file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("A sweep restarts from Optuna's storage, not from Tune's snapshot.")

    def __getstate__(self) -> dict[str, Any]:
        """What Tune may pickle into its snapshot: nothing that holds a connection."""
        return {"trials": self.trials}

    # For the sweep.

    def remaining(self) -> int:
        """How many trials are still to run or to finish."""
        return sum(max(0, self.trials - asked) for asked in self.asked.values()) + len(self.orphans)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial's own study would prune it now. A trial that only fits a probe is never worth stopping."""
        unfinished = EARLY_SCORE in result and not result.get("ended")
        return self.early_stopping and unfinished and self.live[trial_id].trial.should_prune()

    def history(self, cell: Cell) -> list[FrozenTrial]:
        """All trials of a cell that count, in order."""
        return [trial for trial in self.studies[cell.name].get_trials(deepcopy=False) if counts(trial)]

    def _ask(self) -> Asked:
        name = min((name for name in self.cells if self.asked[name] < self.trials), key=lambda name: self.asked[name])
        self.asked[name] += 1
        return Asked(self.cells[name], self.studies[name].ask(distributions(self.cells[name].space)))


class StudyStopping(FIFOScheduler):
    """Early stopping as the trial's own study says (asynchronous successive halving): its rungs outlive a killed
    driver.
    """

    def __init__(self, studies: Studies) -> None:
        super().__init__()
        self.studies = studies

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
    return Order(assignment.key, assignment, stage=recipe.stage, warmth=f"{recipe.backbone} {recipe.fingerprint}")


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial uses up budget: not one that waits in the queue, nor one that was killed inside ask()."""
    return trial.state != TrialState.WAITING and (trial.state != TrialState.FAIL or _whole(trial))


def _whole(trial: FrozenTrial) -> bool:
    return set(trial.params) == {"batch_size", "chunk_seconds", "probe_lr"}
