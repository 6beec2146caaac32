"""`python -m audioconfit corpora`: which corpora are here against the paper's, and how to get the rest."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from audioconfit import catalogue
from audioconfit.corpora import CORPORA, download


def main(words: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code: 0, or 2 for what the caller can mend."""
    parser = argparse.ArgumentParser(prog="python -m audioconfit", description="AudioConFit's smaller commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("corpora", help="list the six corpora, or download those that are free")
    listing.add_argument("--data", type=Path, default=Path("data"), help="folder of the corpora (default: data)")
    listing.add_argument(
        "--download", metavar="NAME", action="append", default=[], help="fetch one, or 'all' that are free"
    )
    listing.set_defaults(run=_corpora)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.run(arguments))
    except (ValueError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _corpora(arguments: argparse.Namespace) -> int:
    names = [name for word in arguments.download for name in word.split(",")]
    if "all" in names:
        names = [name for name, source in CORPORA.items() if source.download is not None]
    console = Console()
    for name in names:
        _download(name, arguments.data, console)
    console.print(catalogue.listing(catalogue.states(arguments.data), durations=True))
    console.print(f"\nLooked in {arguments.data.resolve()}. The numbers after 'of' are Table 1 of the paper.")
    return 0


def _download(name: str, data: Path, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        folder = download.fetch(name, data, progress=lambda done, total: bar.update(task, completed=done, total=total))
    console.print(f"{CORPORA[name].title} is in {folder}.")


if __name__ == "__main__":
    sys.exit(main())
