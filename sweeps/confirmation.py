"""The confirmation: each cell's best recipe again over seeds or folds. Test is read here and nowhere else."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from audioconfit.recipe import Recipe
from sweeps.cells import Cell
from sweeps.hub import CANCELLED
from sweeps.interrupt import Interrupted
from sweeps.selection import Candidate, Confirmed
from sweeps.studies import order
from sweeps.tracking import Tracker
from sweeps.trial import RESULT, Assignment

RECORD = "confirmed.json"
TEST = "-test-"  # in the keys of confirmations, between the cell and the recipe's signature


def recipes(best: Recipe, *, seeds: int, folds: int) -> list[Recipe]:
    """The best recipe once per fold where the corpus has official folds, else once per seed; the searched one comes
    first.
    """
    if folds > 1:
        return [best.model_copy(update={"fold": fold}) for fold in range(folds)]
    return [best.model_copy(update={"seed": best.seed + extra}) for extra in range(seeds)]


def assignments(cell: Cell, confirmed: Sequence[Recipe], root: Path, micro_batch: int | None) -> list[Assignment]:
    """The recipes as work that reads test. Named by signature: a recipe that was confirmed before is found again."""
    return [
        Assignment(
            recipe,
            cell.prepared,
            root,
            f"{cell.name}{TEST}{recipe.signature}",
            reads_test=True,
            micro_batch=micro_batch,
        )
        for recipe in confirmed
    ]


def confirm(hub: Any, work: Sequence[tuple[Cell, Assignment]], tracker: Tracker) -> dict[str, str]:
    """Runs the assignments, as many at a time as there are slots. Returns the failures: key -> why."""
    with ThreadPoolExecutor(max_workers=len(work)) as threads:
        ends = threads.map(lambda item: _follow(hub, item[0], item[1], tracker), work)
        return {assignment.key: why for (_, assignment), why in zip(work, ends, strict=True) if why}


def settle(work: Sequence[tuple[Cell, Sequence[Assignment]]], tracker: Tracker) -> None:
    """Tells the tracker of confirmations that a killed driver did not tell it of: those that are done, and those whose
    recipe is the best no more.
    """
    for cell, assigned in work:
        wanted = {one.key: one for one in assigned}
        begun = {key for key in tracker.begun if key.rpartition(TEST)[0] == cell.name}
        for key in sorted(begun):
            if key not in wanted:
                tracker.end(key, "dropped", why="Another recipe has become the best of its cell.")
            elif wanted[key].is_done:
                tracker.metrics(key, wanted[key].recipe.epochs + 1, wanted[key].read_metrics())
                tracker.end(key, "complete", files=wanted[key].folder)


def candidate(cell: str, confirmed: Sequence[Assignment], cost: float) -> Candidate:
    """What the confirmation of the cell of that name found."""
    return Candidate(cell, tuple(Confirmed(one, one.read_metrics()) for one in confirmed), cost)


def record(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Writes down which runs confirm each cell by now, for whoever reads the sweep after it ended."""
    cells = {
        one.cell: {
            "cost": one.cost,
            "prepared": str(one.best_run.assignment.prepared),
            "runs": [run.assignment.key for run in one.runs],
        }
        for one in candidates
    }
    temporary = folder / f".{RECORD}"
    temporary.write_text(json.dumps(cells, indent=2))
    temporary.replace(folder / RECORD)


def recorded(folder: Path) -> list[Candidate]:
    """The candidates that `record` wrote down. ValueError: no sweep has come to its end there."""
    if not (folder / RECORD).exists():
        raise ValueError(f"No sweep has come to its end in {folder}; run it, or name another one with --name.")
    cells = json.loads((folder / RECORD).read_text())
    return [_read(folder, name, cell) for name, cell in cells.items()]


def _read(folder: Path, name: str, cell: dict[str, Any]) -> Candidate:
    results = {key: json.loads((folder / "trials" / key / RESULT).read_text()) for key in cell["runs"]}
    assigned = [
        Assignment(Recipe(**result["recipe"]), Path(cell["prepared"]), folder, key, reads_test=True)
        for key, result in results.items()
    ]
    return candidate(name, assigned, cell["cost"])


def train_again(hub: Any, best: Confirmed) -> None:
    """Stage 1 of a confirmed run whose encoder was not kept, for the encoder's sake; its scores are not told again."""
    assignment = replace(best.assignment, key=f"{best.assignment.key}-encoder", hands_over=True)
    step = -1
    while True:
        step, metrics, end = ray.get(hub.follow.remote(order(assignment), step))
        if metrics is None and end == CANCELLED:
            raise Interrupted
        if metrics is None:
            raise RuntimeError(f"The champion's encoder could not be trained again: {end}")
        if metrics.get("ended"):
            return


def _follow(hub: Any, cell: Cell, assignment: Assignment, tracker: Tracker) -> str | None:
    recipe, key, step = assignment.recipe, assignment.key, -1
    tracker.start(
        key,
        cell=cell.name,
        name=f"test s{recipe.seed} f{recipe.fold} {cell.name}",
        kind="confirmation",
        params=recipe.model_dump(mode="json") | {"signature": recipe.signature, "stage": recipe.stage},
        tags=cell.tags,
    )
    while True:
        step, metrics, end = ray.get(hub.follow.remote(order(assignment), step))
        if metrics is None and end == CANCELLED:
            raise Interrupted
        if metrics is None:
            tracker.end(key, "failed", why=end)
            return end
        for epoch in metrics.pop("curve", ()):
            tracker.metrics(key, int(epoch["epoch"]), epoch)
        tracker.metrics(key, step, metrics)
        if metrics.get("ended"):
            tracker.end(key, "complete", files=assignment.folder)
            return None
