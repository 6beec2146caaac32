"""The confirmation: each cell's best recipe again over seeds or folds. Test is read here and nowhere else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audioconfit import files
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe
from sweeps.faults import Interrupted
from sweeps.outcome import runs
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.request.cells import Cell
from sweeps.slots.jobs import Jobs, JobStopped
from sweeps.trial.assignment import AGAIN, RESULT, Assignment

RECORD = "confirmed.json"


def recipes(best: Recipe, *, seeds: int, folds: int) -> list[Recipe]:
    """The best recipe once per fold where the corpus has official folds, else once per seed; the searched one comes
    first.
    """
    if folds > 1:
        return [best.model_copy(update={"fold": fold}) for fold in range(folds)]
    return [best.model_copy(update={"seed": best.seed + extra}) for extra in range(seeds)]


def assignments(cell: Cell, confirmed: Sequence[Recipe], root: Path, micro_batch: int | None) -> list[Assignment]:
    """The recipes as work that reads test."""
    return [runs.CONFIRMATION.assignment(cell, recipe, root, micro_batch) for recipe in confirmed]


def candidate(cell: str, confirmed: Sequence[Assignment], cost: float) -> Candidate:
    """What the confirmation of a cell found."""
    return Candidate(cell, tuple(Confirmed(one, one.read_metrics()) for one in confirmed), cost)


def record(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Stores which runs confirm each cell, for readers of a finished sweep."""
    cells = {
        one.cell: {
            "cost": one.cost,
            "prepared": str(one.best_run.assignment.prepared),
            "runs": [run.assignment.key for run in one.runs],
        }
        for one in candidates
    }
    files.write(folder / RECORD, json.dumps(cells, indent=2))


def recorded(folder: Path) -> list[Candidate]:
    """The candidates that `record` wrote down. InputError: no sweep has come to its end there."""
    if not (folder / RECORD).exists():
        raise InputError(f"No sweep has come to its end in {folder}; run it, or name another one with --name.")
    cells = files.read_json(folder / RECORD, AGAIN)
    return [_read(folder, name, cell) for name, cell in cells.items()]


def _read(folder: Path, name: str, cell: dict[str, Any]) -> Candidate:
    results = {key: files.read_json(folder / "trials" / key / RESULT, AGAIN) for key in cell["runs"]}
    assigned = [
        Assignment(Recipe(**result["recipe"]), Path(cell["prepared"]), folder, key, reads_test=True)
        for key, result in results.items()
    ]
    return candidate(name, assigned, cell["cost"])


def train_again(jobs: Jobs, best: Confirmed) -> None:
    """Trains a confirmed run's stage 1 again because its encoder was not kept; its scores are not reported again.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    assignment = replace(best.assignment, key=f"{best.assignment.key}-encoder", hands_over=True)
    try:
        for _ in jobs.results(assignment.job()):
            pass
    except JobStopped as stopped:
        if stopped.was_cancelled:
            raise Interrupted from None
        raise RuntimeError(f"The champion's encoder could not be trained again: {stopped.why}") from None
