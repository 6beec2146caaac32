"""Runs after the search: the finalists' folds and the confirmation. Each is an assignment named by its recipe's
signature, so that a restart finds what is done, and one MLflow run.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from audioconfit.recipe import Recipe
from sweeps.faults import Interrupted
from sweeps.request.cells import Cell
from sweeps.slots.jobs import Jobs, JobStopped
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker
from sweeps.trial.assignment import Assignment

Run = tuple[Cell, Assignment]
MOST_FOLLOWED = 200  # jobs at a time, of the thousand calls that the queue answers at once; more than it has slots


@dataclass(frozen=True)
class Kind:
    """One kind of run: its tag in MLflow, and what stands in its keys between the cell and the signature."""

    tag: str
    mark: str
    reads_test: bool
    dropped: str  # why a run that had begun is not wanted any more

    def assignment(self, cell: Cell, recipe: Recipe, root: Path, micro_batch: int | None) -> Assignment:
        """The recipe as work of this kind."""
        return Assignment(
            recipe,
            cell.prepared,
            root,
            f"{cell.name}{self.mark}{recipe.signature}",
            reads_test=self.reads_test,
            keeps_predictions=True,
            micro_batch=micro_batch,
        )

    def title(self, cell: Cell, recipe: Recipe) -> str:
        """What the run is called in MLflow, which shows about 16 characters."""
        place = f"s{recipe.seed} f{recipe.fold}" if self.reads_test else f"f{recipe.inner_fold}"
        return f"{self.mark.strip('-')} {place} {cell.name}"


FINALIST = Kind("finalist", "-fold-", False, "It is no finalist any more.")
REFIT = Kind("refit", "-refit-", True, "Another recipe has become the champion.")
CONFIRMATION = Kind("confirmation", "-test-", True, "Another recipe has become the best of its cell.")


def carry_out(kind: Kind, jobs: Jobs, work: Sequence[Run], tracker: Tracker) -> dict[str, str]:
    """Runs the assignments, as many at a time as there are slots. Returns the failures: key -> why."""
    with ThreadPoolExecutor(max_workers=min(len(work), MOST_FOLLOWED)) as threads:
        ends = threads.map(lambda item: _follow(kind, jobs, item[0], item[1], tracker), work)
        return {assignment.key: why for (_, assignment), why in zip(work, ends, strict=True) if why}


def settle(kind: Kind, cells: Sequence[Cell], wanted: Sequence[Assignment], tracker: Tracker) -> None:
    """Tells MLflow of runs that a killed driver never reported, or whose lines in the journal are lost: those that are
    done, and those that are not wanted any more.
    """
    by_key, by_name = {one.key: one for one in wanted}, {cell.name: cell for cell in cells}
    for key in sorted(by_key.keys() - tracker.known):
        if by_key[key].is_done:
            _begin(kind, by_name[key.rpartition(kind.mark)[0]], by_key[key], tracker)
    for key in sorted(key for key in tracker.begun if key.rpartition(kind.mark)[0] in by_name):
        if key not in by_key:
            tracker.end(key, Outcome.DROPPED, why=kind.dropped)
        elif by_key[key].is_done:
            tracker.metrics(key, by_key[key].recipe.epochs + 1, by_key[key].read_metrics())
            tracker.end(key, Outcome.COMPLETE, files=by_key[key].folder)


def _begin(kind: Kind, cell: Cell, assignment: Assignment, tracker: Tracker) -> None:
    """Tells of a run that begins, or goes on."""
    recipe = assignment.recipe
    tracker.start(
        assignment.key,
        cell=cell.name,
        name=kind.title(cell, recipe),
        kind=kind.tag,
        params=recipe.model_dump(mode="json") | {"signature": recipe.signature, "stage": recipe.stage_key},
        tags=cell.tags,
    )


def _follow(kind: Kind, jobs: Jobs, cell: Cell, assignment: Assignment, tracker: Tracker) -> str | None:
    """Runs one assignment and reports it. Returns why it failed, if it did."""
    key = assignment.key
    _begin(kind, cell, assignment, tracker)
    try:
        for update in jobs.results(assignment.job()):
            tracker.result(key, update.step, update.metrics)
    except JobStopped as stopped:
        if stopped.was_cancelled:
            raise Interrupted from None
        tracker.end(key, Outcome.FAILED, why=stopped.why)
        return stopped.why
    tracker.end(key, Outcome.COMPLETE, files=assignment.folder)
    return None
