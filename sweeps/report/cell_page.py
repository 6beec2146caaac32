"""The page of a cell in MLflow: what won with which settings, which trials came next, which setting mattered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from audioconfit import scores
from sweeps.outcome import references
from sweeps.outcome.selection import Candidate
from sweeps.report.record import Run, time_spent
from sweeps.request.cells import Cell
from sweeps.search import importances
from sweeps.tracking import mlflow_page
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker

MOST_TRIALS = 10
WINNING = "best_{setting}"  # tags of the cell's run: MLflow lets no parameter change, and a sweep that goes on may


class Trial(Protocol):
    """A trial as its study has it."""

    number: int
    params: dict[str, Any]
    value: float | None


@dataclass(frozen=True)
class Scored:
    """A trial that completed, and its run in MLflow; None where MLflow has lost it."""

    run: str | None
    name: str
    params: Mapping[str, Any]
    score: float


def write(
    tracker: Tracker,
    cell: Cell,
    candidate: Candidate | None,
    ranked: Sequence[Trial],
    ran: Sequence[Run],
    *,
    files: Path,
) -> None:
    """Ends the cell's run in MLflow: its scores, the importances, its description. `candidate`: what was confirmed, if
    a trial was; `ranked`: the complete trials, best first; `ran`: all that slots did for it; `files`: more artefacts.
    """
    shares = importances.of([(trial.params, trial.value or 0.0) for trial in ranked])
    best = [
        Scored(_run_of(tracker, cell.key(trial.number)), f"{trial.number:03d}", trial.params, trial.value or 0.0)
        for trial in ranked[:MOST_TRIALS]
    ]
    numbers = {mlflow_page.IMPORTANCE.format(setting=name): share for name, share in shares.items()}
    runs, outcome = [], Outcome.FAILED
    if candidate:
        tracker.cell(cell.name, tags=cell.tags | winning(candidate, list(ranked[0].params)))
        runs, outcome = [_run_of(tracker, run.assignment.key) for run in candidate.runs], Outcome.COMPLETE
        mean, deviation = candidate.test
        numbers |= {"valid_score": candidate.valid, "test_score": mean, "test_score_sd": deviation}
    parts = (
        note(tracker.experiment, candidate, runs, best, len(ranked), shares, ran),
        references.note(cell.base.dataset),
    )
    tracker.end_cell(cell.name, outcome, numbers, files=files, note="\n\n".join(filter(None, parts)))


def _run_of(tracker: Tracker, key: str) -> str | None:
    """Its run in MLflow; a page lacks a link where there is none, or MLflow is away."""
    try:
        return tracker.run_id(key)
    except Exception:  # whatever a server or a network can do
        return None


def note(
    experiment: str,
    candidate: Candidate | None,
    runs: Sequence[str | None],
    trials: Sequence[Scored],
    count: int,
    shares: Mapping[str, float],
    ran: Iterable[Run] = (),
) -> str:
    """Markdown. `candidate`: the confirmed recipe, and `runs` its runs in MLflow, in its order; `trials`: the best
    ones of `count`; `ran`: all that slots did for this cell."""
    names = dict.fromkeys((*mlflow_page.SEARCHED, *(trials[0].params if trials else ())))
    confirmed = _confirmed(experiment, candidate, runs, names) if candidate else "**No trial was confirmed on test.**"
    parts = [confirmed]
    if trials:
        parts.append(_table_of_trials(experiment, trials, count))
    if shares:
        each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        parts.append(f"Share of the spread of validation scores by setting (Optuna's fANOVA): {each}.")
    seconds, clips = time_spent(ran)
    if whole := sum(seconds.values()):
        each = ", ".join(f"{phase} {spent / whole:.0%}" for phase, spent in seconds.items())
        speed = "" if clips is None else f"; {clips:.1f} clips a second in training"
        parts.append(f"Slots worked {whole / 60:.1f} minutes for this cell: {each}{speed}.")
    views = ", ".join(f"[{view.title}]({mlflow_page.link('', experiment, view)})" for view in mlflow_page.VIEWS)
    return "\n\n".join([*parts, f"All of the sweep: {views}."])


def winning(candidate: Candidate, settings: Sequence[str]) -> dict[str, str]:
    """The searched settings of the recipe that was confirmed, as tags of the cell's run."""
    recipe = candidate.runs[0].recipe
    return {WINNING.format(setting=name): str(getattr(recipe, name)) for name in settings}


def _confirmed(experiment: str, candidate: Candidate, runs: Sequence[str | None], names: Iterable[str]) -> str:
    recipe = candidate.runs[0].recipe
    settings = ", ".join(f"{name} {_shown(getattr(recipe, name))}" for name in names)
    lines = [
        f"**Test {scores.title(candidate.metric)}: {candidate.shown}** with {settings}.",
        "",
        "| confirmation | validation | test | 95 per cent interval |",
        "|---|---|---|---|",
    ]
    for one, run in zip(candidate.runs, runs, strict=True):
        ends = [one.metrics.get(f"test_{scores.field(candidate.metric)}_{end}") for end in ("low", "high")]
        interval = " to ".join(f"{end:.4f}" for end in ends if end is not None)
        name = f"seed {one.recipe.seed}, fold {one.recipe.fold}"
        lines.append(f"| {_linked(experiment, name, run)} | {one.valid:.4f} | {one.test:.4f} | {interval} |")
    best = runs[candidate.runs.index(candidate.best_run)]
    if best is not None:
        picture = mlflow_page.artefact(best, "confusion.png")
        lines += ["", f"![confusion on test of the best run on validation]({picture})"]
    return "\n".join(lines)


def _table_of_trials(experiment: str, trials: Sequence[Scored], count: int) -> str:
    settings = list(trials[0].params)
    heads = ["trial", "validation", *settings]
    rows = [
        [_linked(experiment, one.name, one.run), f"{one.score:.4f}"]
        + [_shown(one.params.get(name)) for name in settings]
        for one in trials
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]]
    return "\n".join([f"The best {len(trials)} of {count} complete trials:", "", *lines])


def _linked(experiment: str, name: str, run: str | None) -> str:
    return name if run is None else f"[{name}]({mlflow_page.run_link(experiment, run)})"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
