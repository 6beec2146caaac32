"""The search phase: Tune asks the studies, the slots work, MLflow and the terminal are told."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune

from sweeps import selection
from sweeps.cells import Cell
from sweeps.progress import View
from sweeps.proxy import Trial
from sweeps.stages import StageStore
from sweeps.studies import SCORE, Studies, StudyStopping, opened
from sweeps.tracking import Tracker

# A proxy takes no CPU from the slots, but Tune wants every trial to take something, and it must be something of the
# driver's node.
PROXY_RESOURCES = {"node:__internal_head__": 0.001}


@dataclass
class Record(tune.Callback):
    """What Tune says of its trials, passed on to the tracker, the view and the stage store."""

    studies: Studies
    tracker: Tracker
    view: View
    store: StageStore
    encoders_kept: int
    leading: dict[str, list[FrozenTrial]] = field(default_factory=dict)  # of each cell, those that keep their encoders

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune puts its callbacks into snapshots that nobody reads, and these hold threads and databases."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        assignment = opened(trial.config["order"])
        recipe = assignment.recipe
        self.tracker.start(
            assignment.key,
            cell=trial.config["cell"],
            name=f"{trial.config['number']:03d} {trial.config['cell']}",  # the UI shows about 16 characters
            kind="trial",
            params=recipe.model_dump(mode="json") | {"signature": recipe.signature, "stage": recipe.stage},
            tags=self.studies.cells[trial.config["cell"]].tags,
        )
        # Beside the rate itself: the UI's axes are linear.
        self.tracker.metrics(assignment.key, 0, {"log10_probe_lr": math.log10(recipe.probe_lr)})
        self.view.started(trial.config["cell"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return
        key = trial.config["order"].key
        for epoch in result.get("curve", ()):  # stage 1 was there already: its curve belongs to this trial too
            self.tracker.metrics(key, int(epoch["epoch"]), epoch)
        self.tracker.metrics(key, int(result["epoch"]), _own(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result, assignment = trial.last_result or {}, opened(trial.config["order"])
        if self.studies.interrupted.is_set() and not result.get("ended"):
            return  # interrupted: it goes on at the next start, in the same MLflow run
        outcome = "failed" if result.get("failed") else "complete" if result.get("ended") else "pruned"
        why = f"{result['failed']}\n{assignment.recipe!r}" if outcome == "failed" else None
        self.tracker.end(assignment.key, outcome, why=why, files=assignment.folder)
        self.view.ended(trial.config["cell"], outcome, result.get(SCORE) if outcome == "complete" else None)
        self._tidy(self.studies.cells[trial.config["cell"]], trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.tracker.end(trial.config["order"].key, "failed", why="Tune's own actor for this trial died three times.")
        self.view.ended(trial.config["cell"], "failed")

    def _tidy(self, cell: Cell, number: int) -> None:
        """Disk grows with cells, not trials: the best encoders stay, and the latest checkpoints of pruned trials.

        A trial that ended can only displace those that led before; what earlier starts left is looked through once.
        """
        history = self.studies.history(cell)
        rivals = [*self.leading[cell.name], history[number]] if cell.name in self.leading else history
        ranked = selection.by_score(rivals)
        stages = [cell.recipe(trial.params).stage for trial in ranked]
        self.store.keep_encoders(set(stages[: self.encoders_kept]), among=set(stages))
        self.leading[cell.name] = ranked[: self.encoders_kept]
        live = {asked.stage for asked in self.studies.live.values()}
        self.store.drop_checkpoints(keep=len(self.studies.cells), live=live)


def run(studies: Studies, record: Record, hub: Any, *, slots: int, storage: Path) -> None:
    """All trials that remain. Returns when they have ended."""
    # Tune asks this each second for every idle place; the answer may be half a second old.
    studies.capacity = _Lately(lambda: ray.get(hub.live.remote()))
    trainable = tune.with_resources(tune.with_parameters(Trial, hub=hub), PROXY_RESOURCES)
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            search_alg=studies,
            scheduler=StudyStopping(studies, slots=slots),
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


OUTCOMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def settle(studies: Studies, tracker: Tracker) -> None:
    """Tells the tracker how those trials ended of which only the studies heard: a driver was killed between the two."""
    for assignment, state in studies.ended():
        if assignment.key not in tracker.begun:
            continue
        if state == TrialState.COMPLETE:
            tracker.metrics(assignment.key, assignment.recipe.epochs + 1, assignment.read_metrics())
        tracker.end(assignment.key, OUTCOMES[state], files=assignment.folder)


def show_history(studies: Studies, cells: Sequence[Cell], view: View) -> None:
    """What earlier starts of this sweep have reached."""
    for cell in cells:
        trials = studies.history(cell)
        ended = {state: sum(trial.state == state for trial in trials) for state in TrialState}
        best = selection.best_trial(trials)
        view.history(
            cell.name,
            complete=ended[TrialState.COMPLETE],
            pruned=ended[TrialState.PRUNED],
            failed=ended[TrialState.FAIL],
            best=None if best is None else best.value,
        )


class _Lately:
    """A slow answer, asked at most twice a second."""

    def __init__(self, ask: Any) -> None:
        self.ask, self.answer, self.at = ask, 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() - self.at > 0.5:
            self.answer, self.at = self.ask(), time.monotonic()
        return self.answer


def _own(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what Tune adds to it."""
    added = {
        "trial_id",
        "date",
        "timestamp",
        "time_this_iter_s",
        "time_total_s",
        "pid",
        "hostname",
        "node_ip",
        "config",
        "done",
    }
    added |= {
        "time_since_restore",
        "iterations_since_restore",
        "training_iteration",
        "experiment_tag",
        "should_checkpoint",
        "curve",
    }
    return {name: value for name, value in result.items() if name not in added}
