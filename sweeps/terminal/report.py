"""The report: what a person reads in the terminal before a sweep (the plan) and after it (the table, the champions, the
links).
"""

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from audioconfit import scores
from audioconfit.recipe import Recipe
from sweeps import faults
from sweeps.outcome.race import Race
from sweeps.outcome.registry import Registered
from sweeps.outcome.selection import Candidate
from sweeps.request.cells import Cell
from sweeps.request.datasets import Task
from sweeps.request.forecast import Forecast
from sweeps.request.plan import Plan
from sweeps.tracking import mlflow_page, server

SEEN = "†"


def show_plan(
    plan: Plan,
    cells: Sequence[Cell],
    tasks: Sequence[Task],
    forecasts: Mapping[str, Forecast],
    console: Console,
) -> None:
    """What `--dry-run` prints; `forecasts` by the cell's name."""
    data = _table("Datasets", "dataset", "clips", "classes", "train / valid / test", "duration", "folds")
    for task in tasks:
        split, corpus = task.split, task.waveforms.corpus
        sides = " / ".join(str(len(side)) for side in (split.train, split.valid, split.test))
        minutes = f"{task.waveforms.total_seconds / 60:.1f} min"
        data.add_row(task.dataset, str(len(corpus.clips)), str(len(corpus.classes)), sides, minutes, str(task.folds))
    console.print(data)
    grid = _table("Cells", "cell", "batches", "chunks (s)", "runs", "hours", "disk")
    for cell in cells:
        batches = " ".join(map(str, cell.space.batch_sizes))
        chunks = " ".join(f"{chunk:g}" for chunk in cell.space.chunk_seconds)
        grid.add_row(cell.name, batches, chunks, *_costs(forecasts[cell.name]))
    console.print(grid)
    console.print("[dim]runs: stage 1 trained by the search + the race + the confirmation on test, at most[/dim]")
    asked = f"{_count(len(cells), 'cell')}, {_count(len(cells) * plan.trials, 'trial')}"
    console.print(f"{asked}, {_duration(list(forecasts.values()))}. Nothing was started.", soft_wrap=True)
    for source in dict.fromkeys(each.source for each in forecasts.values()):
        console.print(f"[dim]hours: {source}[/dim]", soft_wrap=True)
    console.print(
        "[dim]the table has the most; early stopping saves some, trials that share stage 1 are counted once[/dim]"
    )


def _duration(forecasts: Sequence[Forecast]) -> str:
    """What all cells take of one slot: the range of those that are known, and how many are not."""
    known = [each.slot_hours for each in forecasts if each.slot_hours is not None]
    unknown = len(forecasts) - len(known)
    if not known:
        return "of unknown cost"
    least, most = (f"{sum(ends):.2f}" for ends in zip(*known, strict=True))
    between = f"about {most} hours" if least == most else f"between {least} and {most} hours"
    more = f", and {_count(unknown, 'cell')} of unknown cost" if unknown else ""
    return f"{between} of one slot{more}"


def _table(title: str, first: str, *others: str) -> Table:
    """Fits 80 columns with the paper's grid: names are never cut, numbers stand to the right."""
    table = Table(title=f"[bold]{title}[/bold]", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _costs(cell: Forecast) -> tuple[str, str, str]:
    runs = f"{cell.stage_runs} + {cell.folds} + {cell.confirmations}"
    if cell.slot_hours is None or cell.disk_bytes is None:
        return runs, "?", "?"
    return runs, f"{cell.slot_hours[1]:.2f}", _bytes(cell.disk_bytes)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_races(races: Mapping[str, Race], console: Console) -> None:
    """Per task the finalists in their standing: the mean of the metric over the inner folds, and how far each came."""
    for dataset, race in races.items():
        standing = race.standing()
        if not standing or max(len(one.folds) for one in standing) < 2:
            continue  # the validation side told enough
        title = f"Race on {dataset} ({scores.title(race.metric)})"
        table = _table(title, "cell", "batch", "chunk (s)", "folds", "mean", "sd")
        further = any(_further(one.recipe, one.cell) for one in standing)
        if further:
            table.add_column("further", overflow="fold")
        for one in standing:
            over_folds = [abs(score) for score in one.scores]
            params = one.params
            table.add_row(
                one.cell.name,
                str(params["batch_size"]),
                f"{params['chunk_seconds']:g}",
                f"{len(over_folds)} of {race.folds}",
                f"{statistics.fmean(over_folds):.3f}",
                f"{statistics.stdev(over_folds):.3f}" if len(over_folds) > 1 else "",
                *([_further(one.recipe, one.cell)] if further else []),
            )
        console.print(table)


def show_seen(tasks: Iterable[Task], console: Console) -> None:
    """What the choice has read that a test score should not rest on: the note below a table of marked rows."""
    for task in tasks:
        if task.folds > 1:
            console.print(
                f"[dim]{SEEN} {escape(task.dataset)}: recipes and champion were chosen on the development clips of "
                "test fold 0, which other folds test; the scores of folds above 0 are not free of that choice.[/dim]",
                soft_wrap=True,
            )


def show_results(
    cells: Sequence[Cell],
    candidates: Sequence[Candidate],
    champions: Sequence[Registered],
    console: Console,
    *,
    seen: Iterable[str] = (),
) -> None:
    """The table dataset x backbone: the metric and UAR on test in per cent; the best probe per task marked, and the
    datasets of whose test clips the choice has `seen` some. Below it the champions with their settings.
    """
    best = {registered.cell for registered in champions}
    found = {candidate.cell: candidate for candidate in candidates}
    grid = _grid(cells, found, best, set(seen))
    room = console.options.update(width=10_000)
    if Measurement.get(console, room, grid).maximum > console.width:
        grid = _list(cells, found, best, set(seen))
    console.print(grid)
    if candidates:
        console.print(f"[dim]{_legend(candidates)}[/dim]", soft_wrap=True)
    for registered in champions:
        console.print(f"[bold]{registered.name}[/bold] version {registered.version}: {registered.why}", soft_wrap=True)
        (cell,) = (one for one in cells if one.name == registered.cell)
        settings = _settings(found[registered.cell].best_run.recipe, cell)
        console.print(f"  settings: {settings}", soft_wrap=True, markup=False)


def _grid(cells: Sequence[Cell], found: Mapping[str, Candidate], best: set[str], seen: set[str]) -> Table:
    """A column per backbone, as the paper has it."""
    backbones = dict.fromkeys(cell.base.backbone for cell in cells)
    table = _table(_heading(found.values()), "dataset", "method", *backbones)
    for dataset, method in dict.fromkeys((cell.base.dataset, cell.base.method) for cell in cells):
        row = {cell.base.backbone: cell for cell in cells if (cell.base.dataset, cell.base.method) == (dataset, method)}
        table.add_row(_marked(dataset, seen), method, *(_entry(found.get(row[name].name), best) for name in backbones))
    return table


def _list(cells: Sequence[Cell], found: Mapping[str, Candidate], best: set[str], seen: set[str]) -> Table:
    """A row per cell, where the columns of all backbones would be cut."""
    table = _table(_heading(found.values()), "dataset", "method", "score and UAR")
    table.add_column("backbone", overflow="fold")
    for cell in cells:
        base = cell.base
        entry = _entry(found.get(cell.name), best)
        table.add_row(_marked(base.dataset, seen), base.method, entry, escape(base.backbone))
    return table


def _marked(dataset: str, seen: set[str]) -> str:
    return escape(f"{dataset} {SEEN}" if dataset in seen else dataset)


def _heading(candidates: Iterable[Candidate]) -> str:
    metrics = " or ".join(sorted({scores.title(candidate.metric) for candidate in candidates})) or "accuracy"
    return f"Test: {metrics}" + ("" if metrics == "UAR" else ", and UAR")


def _legend(candidates: Sequence[Candidate]) -> str:
    """What the numbers beside a score are."""
    said = ["In per cent"]
    over = sorted({candidate.over for candidate in candidates if len(candidate.runs) > 1})
    if over:
        said.append(f"± the standard deviation over {' or '.join(over)}")
    if any(len(candidate.runs) == 1 and candidate.interval for candidate in candidates):
        said.append("in brackets the 95 per cent interval of a single run")
    return ", ".join([*said, "* the champion of its dataset"]) + "."


def _settings(recipe: Recipe, cell: Cell) -> str:
    """What the search chose for it."""
    batch = "" if recipe.method == "frozen" else f"batches of {recipe.batch_size}, "
    usual = f"{batch}chunks of {recipe.chunk_seconds:g} s, probe rate {recipe.probe_lr:.3g}"
    return ", ".join(part for part in (usual, _further(recipe, cell)) if part)


def _further(recipe: Recipe, cell: Cell) -> str:
    """What the search chose beside batch, chunk and probe rate: "temperature 0.1, mining hardest"."""
    values = {name: getattr(recipe, name) for name in cell.space.charted if name not in mlflow_page.SEARCHED}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def show_failures(failures: dict[str, str], problems: Sequence[str], console: Console) -> None:
    """What went wrong on the way, if anything."""
    for key, why in failures.items():
        console.print(f"[red]{key} failed:[/red] {why}", soft_wrap=True)
    for problem in problems:
        console.print("[yellow]MLflow does not have everything; the next start of this sweep sends the rest:[/yellow]")
        console.print(f"  {problem}", soft_wrap=True, markup=False)


def show_failed_trials(reasons: Mapping[str, Mapping[str, int]], stopped: Mapping[str, str], console: Console) -> None:
    """Why trials of the search failed, by cell, and which cells were given up."""
    for cell, counts in reasons.items():
        for why, count in counts.items():
            console.print(f"{cell}: {count} trials failed: {why}", style="red", soft_wrap=True, markup=False)
        if cell in stopped:
            console.print(
                "  All that ended failed so, and the search of this cell was ended; mend it, then run the same"
            )
            console.print("  command with --retry-failed.")


def show_waiting(why: str | None, console: Console) -> None:
    """That champions are not registered yet, if so."""
    if why is not None:
        console.print("[yellow]The best probes are not registered yet, for MLflow did not take them:[/yellow]")
        console.print(f"  {why}", soft_wrap=True, markup=False)
        console.print("Run the same command again when it does; nothing is trained again.")


def show_links(
    uri: str, folder: Path, experiment: str, champions: Sequence[Registered], console: Console, *, refitted: bool
) -> None:
    """How to open the MLflow UI on this sweep, and how to use a champion. `folder`: the sweep's, in its storage."""
    shown = faults.masked(uri)
    console.print("\nLook at the trials:", style="bold")
    if uri.startswith("http"):
        console.print(f"  {mlflow_page.link(shown, experiment)}", soft_wrap=True)
    else:
        named = "" if uri == server.database_in(folder.parent) else f" --tracking-uri {shlex.quote(shown)}"
        console.print(
            f"  python sweeps/ui.py {shlex.quote(str(folder.parent))} --name {folder.name}{named}",
            soft_wrap=True,
            markup=False,
        )
        console.print("which starts MLflow's server and opens on:")
        console.print(f"  {mlflow_page.link(f'http://{server.HOST}:{server.PORT}', experiment)}", soft_wrap=True)
    if champions and not refitted:
        console.print("To have it trained once more on train and valid, run the same command with --refit.")
    for registered in champions[:1]:
        console.print("Use the best probe:", style="bold")
        console.print(f"  mlflow.set_tracking_uri({shown!r})", soft_wrap=True)
        console.print(
            f"  model = mlflow.pyfunc.load_model({registered.uri!r})\n"
            "  model.predict(pandas.DataFrame({'audio': [open('some.wav', 'rb').read()]}))",
            soft_wrap=True,
            markup=False,
        )


def _entry(candidate: Candidate | None, best: set[str]) -> str:
    if candidate is None:
        return "[red]failed[/red]"
    uar = 100 * statistics.fmean(run.metrics["test_uar"] for run in candidate.runs)
    entry = candidate.shown if candidate.metric == "uar" else f"{candidate.shown} {uar:.1f}"
    return f"[bold green]{entry} *[/bold green]" if candidate.cell in best else entry
