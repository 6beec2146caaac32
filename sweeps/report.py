"""The report: what a person reads in the terminal before a sweep (the plan) and after it (the table, the champions, the
links).
"""

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sweeps import view
from sweeps.cells import Cell
from sweeps.plan import Plan
from sweeps.registry import Registered
from sweeps.selection import Candidate
from sweeps.tasks import Task

MLFLOW_PORT = 5000


def show_plan(plan: Plan, cells: Sequence[Cell], tasks: Sequence[Task], console: Console) -> None:
    """What `--dry-run` prints."""
    data = Table(title="Datasets", title_justify="left", header_style="dim")
    for heading in ("dataset", "clips", "classes", "train / valid / test", "duration", "folds"):
        data.add_column(heading, justify="left" if heading == "dataset" else "right")
    for task in tasks:
        split, corpus = task.split, task.waveforms.corpus
        sides = " / ".join(str(len(side)) for side in (split.train, split.valid, split.test))
        minutes = f"{task.waveforms.total_seconds / 60:.1f} min"
        data.add_row(task.dataset, str(len(corpus.clips)), str(len(corpus.classes)), sides, minutes, str(task.folds))
    console.print(data)
    grid = Table(title="Cells", title_justify="left", header_style="dim")
    for heading in ("cell", "trials", "batch sizes", "chunks (s)", "stage 1 runs", "test runs"):
        grid.add_column(heading)
    folds = {task.dataset: task.folds for task in tasks}
    for cell in cells:
        batches = ", ".join(map(str, cell.space.batch_sizes))
        chunks = ", ".join(f"{chunk:g}" for chunk in cell.space.chunk_seconds)
        again = folds[cell.base.dataset] if folds[cell.base.dataset] > 1 else plan.seeds
        grid.add_row(
            cell.name, str(plan.trials), batches, chunks, str(min(plan.trials, cell.space.stage_count)), str(again)
        )
    console.print(grid)
    console.print(f"{len(cells)} cells, {len(cells) * plan.trials} trials. Nothing was started.")


def show_results(
    cells: Sequence[Cell],
    candidates: Sequence[Candidate],
    champions: Sequence[Registered],
    console: Console,
) -> None:
    """The table backbone x dataset: test accuracy, mean ± standard deviation over seeds or folds; the best probe per
    task marked.
    """
    datasets = list(dict.fromkeys(cell.base.dataset for cell in cells))
    table = Table(title="Test accuracy (per cent)", title_justify="left", header_style="dim")
    for heading in ("backbone", "method", *datasets):
        table.add_column(heading, justify="left" if heading in ("backbone", "method") else "right")
    best = {registered.cell for registered in champions}
    found = {candidate.cell: candidate for candidate in candidates}
    for backbone, method in dict.fromkeys((cell.base.backbone, cell.base.method) for cell in cells):
        row = {
            cell.base.dataset: cell for cell in cells if (cell.base.backbone, cell.base.method) == (backbone, method)
        }
        table.add_row(backbone, method, *(_entry(found.get(row[name].name), best) for name in datasets))
    console.print(table)
    for registered in champions:
        console.print(f"[bold]{registered.name}[/bold] version {registered.version}: {registered.why}", soft_wrap=True)


def show_failures(failures: dict[str, str], problems: Sequence[str], console: Console) -> None:
    """What went wrong on the way, if anything."""
    for key, why in failures.items():
        console.print(f"[red]{key} failed:[/red] {why}", soft_wrap=True)
    for problem in problems:
        console.print(
            f"[yellow]MLflow did not take everything; the next start of this sweep sends the rest:[/yellow] {problem}"
        )


def show_links(uri: str, experiment: str, champions: Sequence[Registered], console: Console) -> None:
    """How to open the MLflow UI on this sweep, and how to use a champion."""
    address = uri if uri.startswith("http") else f"http://127.0.0.1:{MLFLOW_PORT}"
    if not uri.startswith("http"):
        console.print("\nLook at the trials:", style="bold")
        console.print(f"  mlflow server --backend-store-uri {shlex.quote(uri)} --port {MLFLOW_PORT}", soft_wrap=True)
    console.print(f"  {view.link(address, experiment)}", soft_wrap=True)
    for registered in champions[:1]:
        console.print("Use the best probe:", style="bold")
        console.print(f"  mlflow.set_tracking_uri({uri!r})", soft_wrap=True)
        console.print(
            f"  model = mlflow.pyfunc.load_model({registered.uri!r})\n"
            "  model.predict(pandas.DataFrame({'audio': [open('some.wav', 'rb').read()]}))",
            soft_wrap=True,
            markup=False,
        )


def show_interrupted(arguments: Sequence[str] | None, console: Console) -> None:
    """How to go on."""
    command = shlex.join(["python", "sweeps/grid.py", *(sys.argv[1:] if arguments is None else arguments)])
    console.print("Interrupted; all that was reached is saved. To go on, run the same command again:")
    console.print(f"  {command}", soft_wrap=True, markup=False)


def show_error(error: Exception) -> None:
    """A request that cannot be met: a line or paragraph per thing that is wrong, no traceback."""
    console = Console(stderr=True)
    for line in str(error).splitlines():
        console.print(f"[red]error:[/red] {line}", soft_wrap=True, highlight=False)


def _entry(candidate: Candidate | None, best: set[str]) -> str:
    if candidate is None:
        return "[red]failed[/red]"
    mean, deviation = candidate.test
    entry = f"{100 * mean:.2f} ± {100 * deviation:.2f}"
    return f"[bold green]{entry} *[/bold green]" if candidate.cell in best else entry
