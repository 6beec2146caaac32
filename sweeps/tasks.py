"""Tasks: each dataset of the plan found, prepared and split, before anything is trained."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audioconfit import audio, catalogue, corpora, splits
from audioconfit.audio import Waveforms
from audioconfit.audio.preparing import Map
from audioconfit.catalogue import State
from audioconfit.corpora import CORPORA, Corpus, download
from audioconfit.splits import Split
from sweeps.plan import Plan

SHOWN_FAULTS = 5
LEAST_ROOM_BYTES = 2**20  # an empty file can be made on a full disk, too
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


def prepare(plan: Plan, console: Console, *, map: Map | None = None) -> list[Task]:
    """Every dataset of the plan. `map` spreads the decoding over a cluster; this machine's cores do it otherwise.

    Raises:
        ValueError: all that is wrong with any of them, a line each: they are looked at together before one is prepared.
    """
    names = _there(plan, console)
    found = _together(names, lambda name: corpora.load(name, plan.data, allow_incomplete=plan.allow_incomplete))
    called = [corpus.name for corpus in found]
    if twice := {name for name in called if called.count(name) > 1}:
        raise ValueError(f"Two datasets are called {', '.join(sorted(twice))}; rename one of their folders or files.")
    return _together(found, lambda corpus: _task(corpus, plan, console, map))


def _there(plan: Plan, console: Console) -> list[str]:
    """The datasets to sweep over: fetched where the plan says so, without the missing ones where it says so."""
    known = [name for name in plan.datasets if name in CORPORA]
    if plan.download:
        for state in catalogue.states(plan.data, known):
            if state.status == "download":
                _fetch(state.source.name, plan.data, console)
    states = catalogue.states(plan.data, known)
    lacking = [state.source.name for state in states if not _can_be_used(state, plan)]
    if len(known) == 1 or not lacking:
        return list(plan.datasets)  # a single one explains itself where it is loaded
    console.print(catalogue.listing(states))
    rest = [name for name in plan.datasets if name not in lacking]
    if not (plan.skip_missing and rest):
        raise ValueError(
            f"not ready: {', '.join(lacking)}. "
            "--download fetches those that are free, --skip-missing sweeps over the rest"
        )
    console.print(f"[yellow]left out: {', '.join(lacking)}[/yellow]")
    return rest


def _can_be_used(state: State, plan: Plan) -> bool:
    return state.there or (state.status == "incomplete" and plan.allow_incomplete)


def _fetch(name: str, data: Path, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(f"downloading {name}", total=None)
        try:
            download.fetch(name, data, progress=lambda done, total: bar.update(line, completed=done, total=total))
        except ConnectionError as error:
            raise ValueError(f"{name} could not be downloaded: {error}") from None


def _task(corpus: Corpus, plan: Plan, console: Console, map: Map | None) -> Task:
    folder = plan.storage.absolute() / "prepared" / corpus.name
    with _bar(console) as bar:
        line = bar.add_task(f"preparing {corpus.name}", total=len(corpus.clips))
        waveforms = audio.prepare(
            corpus, folder, progress=lambda done, total: bar.update(line, completed=done), map=map
        )
    _say_faults(waveforms, console)
    if not plan.allow_incomplete:
        corpora.check_complete(waveforms.corpus)  # a copy full of broken files is no copy
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
        try:
            probe.write_bytes(bytes(LEAST_ROOM_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"--storage: cannot write to {folder} ({error.strerror}); choose another folder or make room."
        ) from None


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
