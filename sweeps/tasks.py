"""Tasks: each dataset of the plan found, prepared and split, before anything is trained."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audioconfit import audio, corpora, splits
from audioconfit.audio import Waveforms
from audioconfit.corpora import Corpus
from audioconfit.splits import Split
from sweeps.plan import Plan

SHOWN_FAULTS = 5
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Task:
    """One dataset, ready to be learned."""

    dataset: str
    prepared: Path
    waveforms: Waveforms
    split: Split
    folds: int


def prepare(plan: Plan, console: Console) -> list[Task]:
    """Every dataset of the plan.

    Raises:
        ValueError: all that is wrong with any of them, a paragraph each: they are looked at together before one is
        prepared.
    """
    found = _together(plan.datasets, lambda name: corpora.load(name, plan.data, allow_incomplete=plan.allow_incomplete))
    names = [corpus.name for corpus in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two datasets are called {', '.join(sorted(twice))}; rename one of their folders or files.")
    return _together(found, lambda corpus: _task(corpus, plan, console))


def _task(corpus: Corpus, plan: Plan, console: Console) -> Task:
    folder = plan.storage.absolute() / "prepared" / corpus.name
    with _bar(console) as bar:
        line = bar.add_task(f"preparing {corpus.name}", total=len(corpus.clips))
        waveforms = audio.prepare(corpus, folder, progress=lambda done, total: bar.update(line, completed=done))
    _say_faults(waveforms, console)
    for note in waveforms.corpus.notes:
        console.print(f"[dim]{corpus.name}: {note}[/dim]")
    split = splits.split(waveforms.corpus, protocol=plan.protocol)
    return Task(corpus.name, folder, waveforms, split, splits.fold_count(waveforms.corpus, plan.protocol))


def _together(items: Sequence[Item], make: Callable[[Item], Made]) -> list[Made]:
    made: list[Made] = []
    problems: list[str] = []
    for item in items:
        try:
            made.append(make(item))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return made


def check_writable(folder: Path) -> None:
    """ValueError where the sweep could not keep its files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--storage: cannot write to {folder} ({error.strerror}); choose another folder.") from None


def _say_faults(waveforms: Waveforms, console: Console) -> None:
    if not waveforms.faults:
        return
    name, faults = waveforms.corpus.name, waveforms.faults
    console.print(f"[yellow]{name}: {len(faults)} clips left out, {len(waveforms.corpus.clips)} remain[/yellow]")
    for fault in faults[:SHOWN_FAULTS]:
        console.print(f"  [dim]{fault.key}: {fault.reason}[/dim]")
    if len(faults) > SHOWN_FAULTS:
        console.print(f"  [dim]and {len(faults) - SHOWN_FAULTS} more[/dim]")


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
