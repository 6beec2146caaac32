"""Look before a sweep: `python sweeps/preflight.py cluster.yaml` before `ray up`, `python sweeps/preflight.py` on the
head (or as a job) before the first sweep.

With a file: what is wrong with it, without contacting anything. Without one: what every node of the cluster (or this
machine) runs and sees. Takes seconds, costs nothing, and ends with exit code 1 where something is wrong.
"""

import argparse
import os
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audioconfit import catalogue, errors
from sweeps import faults
from sweeps.cluster import cluster_file, joining, nodes
from sweeps.cluster.nodes import Node
from sweeps.request import flags
from sweeps.request.plan import Plan

MLFLOW_SECONDS = 10.0
MARKS = {True: "[green]ok[/green]", False: "[red]wrong[/red]", None: "[dim]-[/dim]"}


@dataclass(frozen=True)
class Row:
    """One thing that was looked at: fine (True), wrong (False), or not to be had here (None)."""

    what: str
    fine: bool | None
    finding: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 all is well, 1 something is wrong, 2 the request cannot be met."""
    parser = argparse.ArgumentParser(prog="python sweeps/preflight.py", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a cluster file to check before `ray up`")
    parser.add_argument("--data", help="the recordings; default $AUDIOCONFIT_DATA or data")
    parser.add_argument("--storage", help="of the sweeps; default $AUDIOCONFIT_STORAGE or storage")
    asked = parser.parse_args(arguments)
    return errors.guard(lambda: _look(asked))


def _look(asked: argparse.Namespace) -> int:
    rows = list(_of_file(asked.file) if asked.file else _of_nodes(flags.places(data=asked.data, storage=asked.storage)))
    _show(rows, str(asked.file or "nodes"), Console())
    return 1 if any(row.fine is False for row in rows) else 0


def _of_file(path: Path) -> Iterator[Row]:
    config = cluster_file.read(path)
    for what, check in cluster_file.CHECKS.items():
        try:
            problems = cluster_file.problems(check, config)
        except cluster_file.Unavailable as missing:
            yield Row(what, None, str(missing))
            continue
        yield Row(what, not problems, "\n".join(problems))


def _of_nodes(here: Plan) -> Iterator[Row]:
    data, storage = here.data.absolute(), here.storage.absolute()
    with joining.join():
        found = nodes.look(storage, [data] if data.exists() else [])
    yield Row("nodes", True, "\n".join(node.name for node in found))
    yield _row("versions", _differences(found), good=_said(found[0].versions))
    yield _gpus(found)
    unwritable = (f"{node.name}: {node.unwritable}" for node in found if node.unwritable)
    yield _row("storage", [*_blind(found, storage), *unwritable], good=str(storage))
    yield _recordings(found, data)
    yield _mlflow(here.tracking_uri)
    if len(found) > 1:
        closed = os.environ.get("RAY_AUTH_MODE") == "token"
        yield _row("token", [] if closed else ["RAY_AUTH_MODE is not token: whoever reaches a node runs code on it"])


def _differences(found: Sequence[Node]) -> Iterator[str]:
    """What runs in another version than on the driver's node."""
    first = found[0]
    for node in found[1:]:
        for name, version in node.versions.items():
            if version != first.versions[name]:
                yield f"{name} is {version} on {node.name}, {first.versions[name]} on {first.name}"


def _gpus(found: Sequence[Node]) -> Row:
    if not any(node.gpus for node in found):
        return Row("GPUs", None, "none: trials run on CPUs")
    blind = (
        f"{node.name}: Ray hands out {node.gpus}, torch finds {node.usable_gpus} (driver? CPU build of torch?)"
        for node in found
        if node.usable_gpus < node.gpus
    )
    return _row("GPUs", blind, good=", ".join(f"{node.name}: {node.gpus}" for node in found if node.gpus))


def _recordings(found: Sequence[Node], data: Path) -> Row:
    if not data.exists():
        return Row("recordings", None, f"no folder {data}; name it with --data")
    there = [state.source.name for state in catalogue.states(data) if state.there]
    return _row("recordings", _blind(found, data), good=f"{data}: {', '.join(there) or 'none of the six corpora'}")


def _blind(found: Sequence[Node], folder: Path) -> Iterator[str]:
    return (f"{folder} is missing, or another folder, on {node.name}" for node in found if folder in node.unseen)


def _mlflow(uri: str | None) -> Row:
    shown = faults.masked(uri or "a database in the storage folder")
    if uri is None or not uri.startswith("http"):
        return Row("MLflow", None, f"{shown}: opened by the sweep")
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=MLFLOW_SECONDS) as answer:
            return Row("MLflow", answer.status == 200, f"{shown} answers {answer.status}")
    except (OSError, ValueError) as error:
        return Row("MLflow", False, f"{shown} does not answer: {error}")


def _row(what: str, problems: Iterable[str], *, good: str = "") -> Row:
    problems = list(problems)
    return Row(what, not problems, "\n".join(problems) or good)


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _show(rows: Sequence[Row], title: str, console: Console) -> None:
    table = Table(title=f"[bold]{title}[/bold]", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("")
    table.add_column("finding", overflow="fold")
    for row in rows:
        table.add_row(row.what, MARKS[row.fine], escape(row.finding))
    console.print(table)
    wrong = sum(row.fine is False for row in rows)
    console.print(f"[red]{wrong} of {len(rows)} checks failed.[/red]" if wrong else "Nothing is wrong.")


if __name__ == "__main__":
    sys.exit(main())
