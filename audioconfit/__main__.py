"""The smaller commands.

`python -m audioconfit corpora`: which corpora are here against the paper's, and how to get the rest.
`python -m audioconfit pretrain NAME --out FOLDER`: one of our own backbones, from nothing; 20 minutes on one core.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from audioconfit import catalogue, pretraining
from audioconfit.corpora import CORPORA, download
from audioconfit.pretraining import ARCHITECTURES, STEPS, Setting, held_out
from audioconfit.pretraining.held_out import Embed


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
    training = commands.add_parser("pretrain", help="pre-train a small backbone on generated speech")
    training.add_argument("name", help=f"one of {', '.join(ARCHITECTURES)}")
    training.add_argument("--out", type=Path, required=True, help="folder, new or that of an interrupted run")
    training.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    training.add_argument("--steps", type=int, default=STEPS, help=f"how long (default: {STEPS})")
    training.add_argument("--threads", type=int, default=1, help="cores to use (default: 1, as the shipped weights)")
    training.set_defaults(run=_pretrain)
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


def _pretrain(arguments: argparse.Namespace) -> int:
    setting = Setting(arguments.name, seed=arguments.seed, steps=arguments.steps)
    if arguments.threads < 1:
        raise ValueError(f"--threads {arguments.threads}: choose 1 or more.")
    torch.set_num_threads(arguments.threads)
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(setting.name, total=setting.steps, losses="")

        def progress(step: int, parts: dict[str, float]) -> None:
            bar.update(task, completed=step, losses="  ".join(f"{name} {part:.2f}" for name, part in parts.items()))

        encoder = pretraining.pretrain(setting, arguments.out, progress=progress)
    table = Table(title="Accuracy on generated speakers that were not heard: linear probe, frozen features")
    table.add_column("task")
    embeddings: dict[str, Embed] = {
        "log-mel statistics": held_out.log_mel_statistics,
        "untrained": pretraining.untrained(setting).eval(),
        "pre-trained": encoder,
    }
    for name in embeddings:
        table.add_column(name, justify="right")
    for tested in held_out.tasks():
        reached = (held_out.accuracy(tested, embed) for embed in embeddings.values())
        table.add_row(f"{len(tested.classes)} {tested.name}", *(f"{accuracy:.3f}" for accuracy in reached))
    console.print(table)
    console.print(f"{setting.name} is in {arguments.out}: pass this path wherever a backbone is asked for.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
