"""One start of a sweep: search -> confirm -> select -> register, each phase passing over what an earlier start has
done.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from sweeps import cluster, confirmation, hub, registry, report, search, selection, trial
from sweeps.cells import Cell
from sweeps.interrupt import Halted, Interrupted, on_interrupt
from sweeps.plan import Plan
from sweeps.progress import View
from sweeps.selection import Candidate
from sweeps.slots import Pool
from sweeps.stages import StageStore
from sweeps.studies import Budget, Studies, open_storage
from sweeps.tracking import Tracker
from sweeps.trial import Assignment
from sweeps.watch import Watch


class Sweep:
    """The phases in order, each a method."""

    def __init__(self, plan: Plan, cells: Sequence[Cell], folds: dict[str, int], console: Console) -> None:
        self.plan, self.cells, self.folds, self.console = plan, cells, folds, console
        self.studies = Studies(
            cells,
            budget=Budget(plan.trials, plan.hours, plan.converged),
            root=plan.folder,
            storage=open_storage(plan.optuna_storage or f"sqlite:///{plan.folder / 'optuna.db'}"),
            early_stopping=plan.early_stopping,
            micro_batch=plan.micro_batch,
        )
        uri = plan.tracking_uri or f"sqlite:///{plan.storage.absolute() / 'mlflow.db'}"
        self.tracker = Tracker(uri, plan.name, plan.folder / "tracking")
        self.store = StageStore(plan.folder)
        self.view = View(cells, trials=plan.trials, console=console)
        self.slots = ExitStack()
        self.hub: Any = None
        self.jobs: Callable[[], int] = lambda: 1  # that the slots could still work at, by phase
        self.problem: str | None = None

    def run(self) -> int:
        """All phases. Raises Interrupted where the user pressed Ctrl-C, Halted where the sweep cannot go on; the exit
        code otherwise.
        """
        self.store.drop_leftovers()
        search.show_history(self.studies, self.cells, self.view)
        try:
            with on_interrupt(self._wind_down), self.view, self.slots:
                self._open_cells()
                search.settle(self.studies, self.tracker)
                self._search()
                candidates, failures = self._confirm()
                confirmation.record(self.plan.folder, candidates)
                champions = self._crown(candidates)
                self._close_cells(candidates)
        except Interrupted:
            if self.problem:
                raise Halted(self.problem) from None
            raise
        finally:
            self.tracker.close()
        report.show_results(self.cells, candidates, champions, self.console)
        report.show_failures(failures, self.tracker.problems, self.console)
        report.show_links(self.tracker.uri, self.tracker.experiment, champions, self.console)
        return 0 if len(candidates) == len(self.cells) else 1

    def _wind_down(self) -> None:
        self.view.say("ending: what runs is being saved (Ctrl-C again: at once)")
        self._stop()

    def _halt(self, problem: str) -> None:
        self.problem = problem
        self._stop()

    def _stop(self) -> None:
        self.studies.interrupted.set()
        if self.hub is not None:
            hub.interrupt(self.hub)

    def _open_cells(self) -> None:
        for cell in self.cells:
            self.tracker.cell(cell.name, tags=cell.tags)

    def _search(self) -> None:
        remaining = self.studies.remaining()
        if not remaining:
            self.view.say("all trials are done already")
            return
        self.jobs = lambda: self.studies.remaining() + len(self.studies.live)
        self._start_slots()
        self.view.say("search")
        record = search.Record(self.studies, self.tracker, self.view, self.store, self.plan.keep_encoders)
        most = remaining if self.watch.room else len(self.pool.threads)
        search.run(self.studies, record, self.hub, slots=most, storage=self.plan.folder / "tune")
        if self.studies.interrupted.is_set():
            raise Interrupted

    def _confirm(self) -> tuple[list[Candidate], dict[str, str]]:
        """The best recipe of each cell over its seeds or folds. Cells without a complete trial have none."""
        work: list[tuple[Cell, list[Assignment], float]] = []
        for cell in self.cells:
            best = selection.best_trial(self.studies.history(cell))
            if best is not None:
                recipes = confirmation.recipes(
                    cell.recipe(best.params), seeds=self.plan.seeds, folds=self.folds[cell.base.dataset]
                )
                assigned = confirmation.assignments(cell, recipes, self.plan.folder, self.plan.micro_batch)
                work.append((cell, assigned, best.user_attrs["cost"]))
        confirmation.settle([(cell, assigned) for cell, assigned, _ in work], self.tracker)
        waiting = [(cell, one) for cell, assigned, _ in work for one in assigned if not one.is_done]
        failures: dict[str, str] = {}
        if waiting:
            self.jobs = lambda: sum(not one.is_done for _, one in waiting)
            self._start_slots()
            self.view.say("confirmation on test")
            failures = confirmation.confirm(self.hub, waiting, self.tracker)
        return [
            confirmation.candidate(cell.name, assigned, cost)
            for cell, assigned, cost in work
            if all(one.is_done for one in assigned)
        ], failures

    def _crown(self, candidates: Sequence[Candidate]) -> list[registry.Registered]:
        """The best probe of each task into the registry."""
        self.view.say("registering the best probes")
        self.tracker.flush()
        crowned = []
        for dataset in dict.fromkeys(candidate.dataset for candidate in candidates):
            rivals = [candidate for candidate in candidates if candidate.dataset == dataset]
            winner = selection.champion(rivals)
            if not self.store.has_encoder(winner.best_run.recipe.stage):
                self._start_slots()
                confirmation.train_again(self.hub, winner.best_run)
            crowned.append(registry.register(self.tracker, self.store, winner, selection.explain(winner, rivals)))
        self._tidy(candidates)
        return crowned

    def _tidy(self, candidates: Sequence[Candidate]) -> None:
        """Of the confirmed runs only each cell's best keeps its encoder: disk grows with cells, not with seeds."""
        stages = {run.recipe.stage for candidate in candidates for run in candidate.runs}
        self.store.keep_encoders({candidate.best_run.recipe.stage for candidate in candidates}, among=stages)

    def _close_cells(self, candidates: Sequence[Candidate]) -> None:
        for cell in self.cells:
            found = next((candidate for candidate in candidates if candidate.cell == cell.name), None)
            if found is None:
                self.tracker.end_cell(cell.name, "failed", {})
                continue
            mean, deviation = found.test
            numbers = {"valid_score": found.valid, "test_score": mean, "test_score_sd": deviation}
            self.tracker.end_cell(cell.name, "complete", numbers)

    def _start_slots(self) -> None:
        """Ray, the hub and the pool, once and only if there is work."""
        if self.hub is not None:
            return
        self.view.say("starting the slots")
        shape = self.slots.enter_context(cluster.connected(self.plan))
        self.hub = hub.start(patience_seconds=self.plan.patience_seconds)
        count = cluster.slot_count(self.plan, shape, self.jobs())
        self.pool = Pool(self.hub, trial.work, slots=count, shape=shape, storage=self.plan.folder / "train")
        self.watch = Watch(
            self.hub,
            self.pool,
            log=self.plan.folder / "hub.log",
            wait_seconds=self.plan.wait_seconds,
            room=cluster.room(self.plan, shape, lambda: self.jobs()),
            resources=lambda: cluster.resources(shape),
            halt=self._halt,
        )
        self.slots.callback(self._close_slots)

    def _close_slots(self) -> None:
        self.watch.close()
        self.pool.close()
        self.store.drop_leftovers()
