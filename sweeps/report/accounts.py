"""Accounts: tables of what a sweep did, from its journal and records: importances, cost, race, data, failures."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from audioconfit import files, scores
from audioconfit.clock import PHASES
from sweeps.report.record import Record, Run, time_spent
from sweeps.report.values import Table, Value, searched
from sweeps.report.writers import shown
from sweeps.request import resuming
from sweeps.search import importances as optuna_importances
from sweeps.tracking.journal import Outcome


def search(record: Record) -> Table:
    """The best trial of each cell by the validation side, which a sweep has long before it reads test."""
    rows: list[list[Value]] = []
    names = searched(record.cells)
    for cell in record.cells:
        trials = [run for run in record.runs if run.cell == cell and run.kind == "trial" and _is_scored(run)]
        if trials:
            best = max(trials, key=lambda run: run.last["valid_score"])
            settings = _settings(best, names)
            found = (settings.get(name) for name in names)
            rows.append([cell, len(trials), best.key, round(best.last["valid_score"], 4), *found])
    note = "The metric on the one validation side of the search; where there was a race, it has decided."
    heads = ("cell", "complete trials", "best trial", "validation", *names)
    return Table("search", "The best trial of each search", heads, rows, note)


def importances(record: Record) -> Table:
    rows: list[list[Value]] = []
    names = searched(record.cells)
    for cell in record.cells:
        trials = [
            (_settings(run, names), run.last["valid_score"])
            for run in record.runs
            if run.cell == cell and run.kind == "trial" and _is_scored(run)
        ]
        found = optuna_importances.of(trials)
        rows += [[cell, name, round(share, 3), len(trials)] for name, share in found.items()]
    note = (
        "The share of the spread of validation scores that a setting explains (Optuna's fANOVA); cells with fewer than "
        f"{optuna_importances.FEWEST_TRIALS} complete trials are left out, and below some twenty trials "
        "it is a hint, no more."
    )
    return Table("importances", "Which setting matters", ("cell", "setting", "importance", "trials"), rows, note)


def _settings(run: Run, names: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """What was searched; of sweeps begun by an earlier version without the layer."""
    return {name: kind(run.params[name]) for name, kind in names.items() if name in run.params}


def _is_scored(run: Run) -> bool:
    return run.outcome is Outcome.COMPLETE and math.isfinite(run.last.get("valid_score", math.nan))


def costs(record: Record) -> Table:
    conduct = _conduct(record)
    workers, gpus = (
        conduct.get(flag, [default])[-1] for flag, default in (("--workers-per-trial", 1), ("--gpus-per-worker", 0))
    )
    device, count = ("GPU", workers * gpus) if gpus else ("CPU", workers * conduct.get("--cpus-per-worker", [1])[-1])
    rows: list[list[Value]] = []
    for cell in record.cells:
        runs = [run for run in record.runs if run.cell == cell]
        ends = Counter(run.outcome for run in runs if run.kind == "trial")
        seconds = sum(_seconds(run) for run in runs)
        epochs = sum(run.trained_epochs for run in runs)
        tried = [ends[outcome] for outcome in (Outcome.COMPLETE, Outcome.PRUNED, Outcome.FAILED)]
        others = sum(run.kind != "trial" for run in runs)
        rows.append([cell, *tried, others, epochs, round(seconds / 3600, 3), round(seconds * count / 3600, 3)])
    heads = ("cell", "complete", "stopped early", "failed", "race and test runs", "stage-1 epochs", "slot hours")
    note = (
        "Trials by how they ended, further runs, epochs that stage 1 was trained, and the hours that slots worked, as "
        "measured on the machines of this sweep."
    )
    return Table("cost", "What it cost", (*heads, f"{device} hours"), rows, note)


def phases(record: Record) -> Table:
    rows: list[list[Value]] = []
    for cell in record.cells:
        seconds, clips = time_spent(run for run in record.runs if run.cell == cell)
        if seconds:
            minutes = (round(seconds.get(phase, 0.0) / 60, 2) for phase in PHASES)
            rows.append([cell, *minutes, None if clips is None else round(clips, 1)])
    note = (
        "Minutes of slots in runs that have a result; training: its steps; waiting: for the sweep's answers; rest: "
        "weights, files and figures. Clips a second: of training."
    )
    return Table("phases", "Where the time went", ("cell", *PHASES, "clips a second"), rows, note)


def _conduct(record: Record) -> dict[str, list[Any]]:
    path = record.folder / resuming.CONDUCT
    return files.read_json(path, "The next start of the sweep begins it anew.") if path.exists() else {}


def _seconds(run: Run) -> float:
    """What the slot measured; of a run without a result the time between its start and its end."""
    if "seconds" in run.last:
        return run.last["seconds"]
    return max(0.0, (run.ended - run.began) / 1000)


def race(record: Record) -> Table:
    rows: list[list[Value]] = []
    for dataset, race in record.races.items():
        for place, one in enumerate(race["finalists"], start=1):
            values = [abs(score) for score in one["scores"]]
            spread = round(statistics.stdev(values), 4) if len(values) > 1 else None
            settings = ", ".join(f"{name} {shown(one[name])}" for name in searched(record.cells) if name in one)
            came = f"{len(values)} of {race['folds']}"
            mean = round(statistics.fmean(values), 4)
            rows.append(
                [dataset, place, one["cell"], settings, scores.title(race["metric"]), came, mean, spread, one["out"]]
            )
    heads = ("dataset", "place", "cell", "settings", "metric", "inner folds", "mean", "sd", "dropped out because")
    return Table("race", "The race over inner folds", heads, rows)


def left_out(record: Record) -> Table:
    rows: list[list[Value]] = [
        [dataset, count, reason, backbone or "all"]
        for dataset in record.datasets
        for (backbone, reason), count in sorted(record.left_out(dataset).items())
    ]
    return Table("left-out", "What was left out of the data", ("dataset", "clips", "reason", "for"), rows)


def failures(record: Record) -> Table:
    failed: Iterable[Run] = (run for run in record.runs if run.outcome is Outcome.FAILED)
    counts = Counter((run.cell, run.kind, (run.why or "no reason was given").strip()) for run in failed)
    rows: list[list[Value]] = [[cell, kind, count, why] for (cell, kind, why), count in counts.most_common()]
    return Table("failures", "What failed", ("cell", "kind", "runs", "reason"), rows)
