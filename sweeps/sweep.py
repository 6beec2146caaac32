"""One start of a sweep: prepare -> search -> race -> confirm -> select -> register. Each phase skips what is done."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from audioconfit import scores
from audioconfit.recipe import Recipe
from sweeps import faults, identity
from sweeps.cluster import capacity, joining, nodes
from sweeps.cluster.warm_slots import WarmSlots
from sweeps.faults import Halted, Interrupted
from sweeps.identity import Identity
from sweeps.interrupt import on_interrupt
from sweeps.outcome import confirmation, race, refitting, registry, runs, selection
from sweeps.outcome.race import Finalist, Race
from sweeps.outcome.selection import Candidate
from sweeps.report import cell_page, making, origin, record
from sweeps.request import backbones, datasets, forecast, head_start, left_out, resuming
from sweeps.request.cells import Cell, lay_out, tell_apart
from sweeps.request.datasets import Task
from sweeps.request.plan import Plan
from sweeps.search import ranking, tuning
from sweeps.search.studies import Budget, Studies, open_storage, reasons
from sweeps.slots.pool import SlotShape
from sweeps.terminal import report
from sweeps.terminal.live import LiveTable
from sweeps.tracking import server
from sweeps.tracking.provenance import Data
from sweeps.tracking.tracker import Tracker
from sweeps.trial.assignment import Assignment
from sweeps.trial.stages import StageStore

MAP_CLIPS = 300  # test clips of a map in the report at the end of a sweep: seconds


def _data(task: Task) -> Data:
    """What MLflow says of a task's recordings."""
    sides = {name: len(getattr(task.split, name)) for name in ("train", "valid", "test")}
    return Data(task.dataset, task.waveforms.fingerprint, sides)


def start(
    plan: Plan,
    console: Console,
    *,
    slots: WarmSlots | None = None,
    leave: Callable[[str], None] = lambda why: None,
) -> int:
    """From a plan to its end; the exit code. `slots`: those of the plan that may have a head start, else they start
    when there is work; `leave`: ends the process, with the reason, where a dead Ray holds it.

    Raises:
        InputError: the request cannot be met. Interrupted and Halted: as `Sweep.run`.
    """
    joining.silence()
    slots = slots or head_start.slots(plan)
    with ExitStack() as stack:
        if plan.demo:
            plan = datasets.generate(plan)
        backbones.check(plan)
        faults.check_writable(plan.folder)
        server.check_answer(tracking_uri(plan))  # before hours of decoding, like all that follows
        _check_databases(plan)
        stack.enter_context(faults.watched(plan.folder, plan.storage))
        stack.enter_context(resuming.lease(plan.folder))
        on_cluster = joining.address() is not None
        if not on_cluster:
            joining.check_temporary()
        if on_cluster:
            stack.enter_context(joining.join())
            capacity.fitting_shape(slots.request)
            plan = backbones.absolute(plan)
            nodes.check_shared(plan.storage.absolute(), [*plan.recordings, *backbones.folders(plan)])
        decode = partial(joining.map_on_nodes, wait_seconds=plan.wait_seconds)
        ready = datasets.prepare(plan, console, map=decode if on_cluster else None)
        cells = tell_apart(lay_out(plan, ready), resuming.recorded(plan.folder))
        if plan.dry_run:
            report.show_plan(plan, cells, ready, forecast.of_cells(plan, cells, ready), console)
            return 0
        itself = identity.of(plan.folder, begun=resuming.has_begun(plan.folder))
        resuming.reconcile(plan.folder, cells)
        return Sweep(plan, itself, cells, ready, console, slots, leave).run()


def tracking_uri(plan: Plan) -> str:
    """Where MLflow is."""
    return plan.tracking_uri or server.database_in(plan.storage)


def optuna_url(plan: Plan) -> str:
    """Where the studies are."""
    return plan.optuna_storage or f"sqlite:///{plan.folder / 'optuna.db'}"


def _check_databases(plan: Plan) -> None:
    """InputError where a local database is damaged."""
    for uri in (tracking_uri(plan), optuna_url(plan)):
        if uri.startswith("sqlite:///"):
            faults.check_database(Path(uri.removeprefix("sqlite:///")), plan.storage)


class Sweep:
    """The phases in order, each a method."""

    def __init__(
        self,
        plan: Plan,
        identity: Identity,
        cells: Sequence[Cell],
        tasks: Sequence[Task],
        console: Console,
        slots: WarmSlots,
        leave: Callable[[str], None],
    ) -> None:
        self.plan, self.cells, self.console = plan, cells, console
        self.tasks = {task.dataset: task for task in tasks}
        self.studies = Studies(
            cells,
            budget=Budget(plan.trials, plan.hours, plan.converged),
            root=plan.folder,
            sweep=identity,
            storage=open_storage(optuna_url(plan)),
            shared=bool(plan.optuna_storage),
            seed=plan.seed,
            sampler=plan.sampler,
            early_stopping=plan.early_stopping,
            micro_batch=plan.micro_batch,
            retry_failed=plan.retry_failed,
        )
        said, place = {"command": origin.command(), **origin.here()}, plan.folder / "tracking"
        self.tracker = Tracker(tracking_uri(plan), identity, place, origin=said, data=map(_data, tasks))
        self.store = StageStore(plan.folder)
        self.table = LiveTable(cells, trials=plan.trials, console=console)
        self.slots = slots
        slots.started, slots.halt, slots.leave = self._note_conduct, self._halt, leave
        self.problem: str | None = None
        self.waiting: str | None = None  # why champions are not registered yet

    def run(self) -> int:
        """All phases; the exit code.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            Halted: the sweep cannot go on.
        """
        self.store.drop_leftovers()
        origin.note(self.plan.folder)
        for cell in self.cells:
            self.table.show_history(cell.name, self.studies.tally(cell))
        try:
            with on_interrupt(self._wind_down), self.table, self.slots:
                self._open_cells()
                tuning.settle(self.studies, self.tracker)
                self._search()
                races, lost = self._race()
                candidates, failures = self._confirm(races)
                confirmation.record(self.plan.folder, candidates)
                self.slots.rest()
                champions = self._crown(candidates, races)
                self._close_cells(candidates)
                self.written = self._report(champions)
        except Interrupted:
            if self.problem:
                raise Halted(self.problem) from None
            raise
        finally:
            self.tracker.close()
            self.store.drop_leftovers()
        report.show_races(races, self.console)
        tasks = self.tasks.values()
        seen = [task.dataset for task in tasks if task.folds > 1]
        report.show_results(self.cells, candidates, champions, self.console, seen=seen)
        report.show_seen(tasks, self.console)
        trials = {cell.name: reasons(self.studies.history(cell)) for cell in self.cells}
        report.show_failed_trials(trials, self.studies.hopeless, self.console)
        report.show_failures(lost | failures, self.tracker.problems, self.console)
        report.show_waiting(self.waiting, self.console)
        self.console.print(self.written, soft_wrap=True, markup=False)
        place = self.tracker.uri, self.plan.folder, self.tracker.experiment
        report.show_links(*place, champions, self.console, refitted=self.plan.refit)
        complete = len(candidates) == len(self.cells) and self.waiting is None and self.tracker.failing is None
        return int(not complete)

    def _note_conduct(self, shape: SlotShape) -> None:
        """Says so where trials run otherwise than earlier ones did."""
        conduct = {
            "--workers-per-trial": shape.workers,
            "--gpus-per-worker": shape.gpus,
            "--cpus-per-worker": shape.cpus,
            "--micro-batch": self.plan.micro_batch,
        }
        if said := resuming.note_conduct(self.plan.folder, conduct):
            self.console.print(f"[yellow]{said}[/yellow]", soft_wrap=True)

    def _wind_down(self) -> None:
        self.table.say("ending: saving what runs (Ctrl-C again: at once)")
        self._stop()

    def _halt(self, problem: str) -> None:
        self.problem = problem
        self._stop()

    def _stop(self) -> None:
        self.studies.interrupted.set()
        self.slots.interrupt()

    def _open_cells(self) -> None:
        self.tracker.page({cell.base.method: cell.space.charted for cell in self.cells})
        for cell in self.cells:
            self.tracker.cell(cell.name, tags=cell.tags)

    def _search(self) -> None:
        remaining = self.studies.remaining()
        if not remaining:
            self.table.say("all trials are done already")
            return
        self.table.say("starting the slots")
        jobs = self.slots.serve(lambda: self.studies.remaining() + len(self.studies.live))
        self.table.say("search")
        record = tuning.Record(self.studies, self.tracker, self.table, self.store, self.plan.keep_encoders)
        most = self.slots.most_trials(remaining)
        tuning.run(self.studies, record, jobs, slots=most, storage=self.plan.folder / "tune", halt=self._halt)
        if self.studies.interrupted.is_set():
            raise Interrupted

    def _race(self) -> tuple[dict[str, Race], dict[str, str]]:
        """The races of all tasks side by side, fold by fold; and why some runs failed."""
        if self.plan.select == "holdout":
            return {}, {}
        races = {name: self._lane(task) for name, task in self.tasks.items()}
        failures: dict[str, str] = {}
        place = (self.plan.folder, self.plan.micro_batch)
        while folds := {name: work for name, lane in races.items() if (work := lane.next_fold(*place))}:
            waiting = [run for work in folds.values() for run in work if not run[1].is_done]
            if waiting:
                jobs = self.slots.serve(lambda: sum(not run.is_done for _, run in waiting))  # noqa: B023
                self.table.say(f"race: inner fold {max(lane.begun for lane in races.values())}")
                failures |= runs.carry_out(runs.FINALIST, jobs, waiting, self.tracker)
            for name in folds:
                races[name].settle(*place, failures)
            self._tidy_folds(races.values())
        done = [fold for lane in races.values() for one in lane.finalists for fold in one.folds]
        runs.settle(runs.FINALIST, self.cells, done, self.tracker)
        race.record(self.plan.folder, races)
        return races, failures

    def _lane(self, task: Task) -> Race:
        """The race of a task at its start."""
        ranked = [self._ranked(cell) for cell in self.cells if cell.base.dataset == task.dataset]
        chosen = race.finalists(ranked, count=self.plan.finalists)
        metric = scores.fitting(self.plan.metric, multi_label=task.split.multi_label)
        return Race(chosen, len(task.inner), metric, always=self.plan.select == "race")

    def _tidy_folds(self, races: Iterable[Race]) -> None:
        """No encoder of a further inner fold is needed again."""
        stages = {fold.recipe.stage_key for lane in races for one in lane.finalists for fold in one.folds[1:]}
        searched = {cell.recipe(trial.params).stage_key for cell in self.cells for trial in self.studies.history(cell)}
        self.store.keep_encoders(set(), among=stages - searched)

    def _confirm(self, races: Mapping[str, Race]) -> tuple[list[Candidate], dict[str, str]]:
        """The best recipe of each cell over its seeds or folds, if a trial completed; and why some runs failed."""
        found = [(cell, best) for cell in self.cells if (best := self._best(cell, races)) is not None]
        work = [(cell, self._confirmations(cell, best.recipe), best.cost) for cell, best in found]
        wanted = [run for _, assigned, _ in work for run in assigned]
        runs.settle(runs.CONFIRMATION, self.cells, wanted, self.tracker)
        waiting = [(cell, run) for cell, assigned, _ in work for run in assigned if not run.is_done]
        failures: dict[str, str] = {}
        if waiting:
            jobs = self.slots.serve(lambda: sum(not run.is_done for _, run in waiting))
            self.table.say("confirmation on test")
            failures = runs.carry_out(runs.CONFIRMATION, jobs, waiting, self.tracker)
        return [
            confirmation.candidate(cell.name, assigned, cost)
            for cell, assigned, cost in work
            if all(run.is_done for run in assigned)
        ], failures

    def _best(self, cell: Cell, races: Mapping[str, Race]) -> Finalist | None:
        """The cell's best recipe: of those that raced, else of the search."""
        raced = races[cell.base.dataset].best_of(cell.name) if races else None
        return raced or next(iter(self._ranked(cell)), None)

    def _ranked(self, cell: Cell) -> list[Finalist]:
        """The cell's recipes by the search, best first."""
        return [
            Finalist(cell, trial.params, trial.value or 0.0, trial.user_attrs["cost"])
            for trial in ranking.by_score(self.studies.history(cell))
        ]

    def _confirmations(self, cell: Cell, best: Recipe) -> list[Assignment]:
        folds = self.tasks[cell.base.dataset].folds
        recipes = confirmation.recipes(best, seeds=self.plan.seeds, folds=folds)
        return confirmation.assignments(cell, recipes, self.plan.folder, self.plan.micro_batch)

    def _crown(self, candidates: Sequence[Candidate], races: Mapping[str, Race]) -> list[registry.Registered]:
        """Registers the best probe of each task; those that MLflow does not take wait for the next start."""
        self.table.say("registering the best probes")
        crowned: list[registry.Registered] = []
        for dataset in dict.fromkeys(candidate.dataset for candidate in candidates):
            rivals, raced = [one for one in candidates if one.dataset == dataset], races.get(dataset)
            winner = selection.champion(rivals, raced)
            if not self.store.has_encoder(winner.best_run.recipe.stage_key):
                confirmation.train_again(self.slots.serve(lambda: 1), winner.best_run)
                self.slots.rest()
            why, refit = selection.explain(winner, rivals, raced), None
            if self.plan.refit:
                refit = self._refit(winner, raced)
                score = refit.read_metrics()["test_score"]
                why += f" Handed over: trained once more on train and valid, {score:.4f} on test."
            if not self.tracker.flush():
                self.waiting = self.tracker.failing or "it was too slow"
                continue
            try:
                crowned.append(registry.register(self.tracker, self.store, winner, why, race=raced, refit=refit))
            except registry.AWAY as error:
                if faults.is_full(error):
                    raise
                self.waiting = faults.masked(str(error)).strip().splitlines()[0]
        self._tidy(candidates)
        return crowned

    def _refit(self, winner: Candidate, raced: Race | None) -> Assignment:
        """The winner's best run once more on train and valid."""
        cell = next(cell for cell in self.cells if cell.name == winner.cell)
        recipe = refitting.recipe(winner, raced)
        again = runs.REFIT.assignment(cell, recipe, self.plan.folder, self.plan.micro_batch)
        if not again.is_done:
            failures = runs.carry_out(runs.REFIT, self.slots.serve(lambda: 1), [(cell, again)], self.tracker)
            self.slots.rest()
            if failures:
                raise Halted(f"The champion could not be trained once more ({failures[again.key]}); leave out --refit.")
            self.tracker.flush()
        runs.settle(runs.REFIT, [cell], [again], self.tracker)
        return again

    def _tidy(self, candidates: Sequence[Candidate]) -> None:
        """Only the best confirmed run of each cell keeps its encoder: disk grows with cells, not with seeds."""
        stages = {run.recipe.stage_key for candidate in candidates for run in candidate.runs}
        self.store.keep_encoders({candidate.best_run.recipe.stage_key for candidate in candidates}, among=stages)

    def _report(self, champions: Sequence[registry.Registered]) -> str:
        """Makes the sweep's report and gives it to the champions' cells in MLflow. Returns where it is."""
        self.table.say("writing the report")
        try:
            made = making.make([self.plan.folder], self.plan.folder / "paper", most_clips=MAP_CLIPS, ended=True)
        except Exception as error:  # what hours of search have found stands, whatever the report cannot draw
            return f"The report could not be made ({type(error).__name__}: {error}); try python sweeps/paper.py."
        for registered in champions:
            self.tracker.attach(registered.cell, made.html)
        return f"The report, made in {made.seconds:.1f} s: {made.html}"

    def _close_cells(self, candidates: Sequence[Candidate]) -> None:
        self.tracker.flush()
        found = {candidate.cell: candidate for candidate in candidates}
        ran = record.read(self.plan.folder, ended=True).runs
        for cell in self.cells:
            mine = [run for run in ran if run.cell == cell.name]
            unheard = left_out.folder_of(self.plan.folder, cell.base.dataset)
            ranked = ranking.by_score(self.studies.history(cell))
            cell_page.write(self.tracker, cell, found.get(cell.name), ranked, mine, files=unheard)
