"""Datasets: each dataset of the plan found, prepared and split, before anything is trained."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audioconfit import audio, catalogue, corpora, files, folds, method, scores, splits, synthesis
from audioconfit.audio import Waveforms
from audioconfit.audio.preparing import Map
from audioconfit.catalogue import State
from audioconfit.corpora import CORPORA, Columns, Corpus, download, hub
from audioconfit.errors import InputError
from audioconfit.folds import Folds
from audioconfit.splits import Split
from sweeps.request import left_out
from sweeps.request.left_out import LeftOut
from sweeps.request.plan import Plan

SHOWN_NAMES, SHOWN_COPIES = 5, 3
PREPARED = "prepared"  # in the storage: a store per corpus and content
PINS = "hub.json"  # in the sweep's folder: the id of a data set as it was asked for, and its commit
# Of the demo's stand-ins, in parts of each sound: what leaves its backbones between a fifth and nine tenths right.
DEMO_NOISE, OTHER_NOISE = {"timit": 0.5, "esc50": 6.0}, 0.5
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Task:
    """One dataset, ready to be learned. `folds` of its test, `inner` ones of its development clips."""

    dataset: str
    prepared: Path
    waveforms: Waveforms
    split: Split
    folds: int
    inner: Folds


def prepare(plan: Plan, console: Console, *, map: Map | None = None) -> list[Task]:
    """Every dataset of the plan. `map` spreads the decoding over a cluster; this machine's cores do it otherwise.

    Raises:
        InputError: all that is wrong with any of them, a line each: they are looked at together before one is prepared.
    """
    names = _there(plan, console)
    found = _loaded(names, plan)
    called = [corpus.name for corpus in found]
    if twice := {name for name in called if called.count(name) > 1}:
        raise InputError(f"Two datasets are called {', '.join(sorted(twice))}; rename one of their folders or files.")
    return _together(found, lambda corpus: _task(corpus, plan, console, map))


def _loaded(names: Sequence[str], plan: Plan) -> list[Corpus]:
    """Data sets of the hub as they were when this sweep began: PINS in its folder has their commits."""
    path = plan.folder / PINS
    way_out = "Remove it; the newest commits are taken then, and refused where their content is another."
    pins: dict[str, str] = files.read_json(path, way_out) if path.exists() else {}
    found = _together(names, lambda name: _load(name, plan, pins.get(name)))
    now = {name: corpus.revision for name, corpus in zip(names, found, strict=True) if corpus.revision}
    if now.items() - pins.items():
        files.write(path, json.dumps(pins | now, indent=2))
    return found


def _load(name: str, plan: Plan, commit: str | None) -> Corpus:
    """Columns are named for own data; where there is none, a known corpus says that they are not for it."""
    given = name.lower() not in CORPORA or all(other.lower() in CORPORA for other in plan.datasets)
    named = plan.columns if given else Columns()
    wanted = hub.pinned(name, commit) if commit else name
    return corpora.load(wanted, plan.data, allow_incomplete=plan.allow_incomplete, named=named)


def generate(plan: Plan) -> Plan:
    """The demo's plan with its data: a small generated stand-in for each of its datasets, in the corpus' own layout, in
    noise that leaves something to choose.
    """
    folder = plan.storage.absolute() / "demo-data"
    for name in plan.datasets:
        synthesis.write(name, folder, noise=DEMO_NOISE.get(name, OTHER_NOISE))
    return plan.model_copy(update={"data": folder, "allow_incomplete": True})


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
        raise InputError(
            f"Not ready: {', '.join(lacking)}. --download fetches those that are free, --skip-missing sweeps over the "
            "rest."
        )
    console.print(f"[yellow]Left out: {', '.join(lacking)}[/yellow]")
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
            raise InputError(f"{name} could not be downloaded: {error}") from None


def _task(corpus: Corpus, plan: Plan, console: Console, map: Map | None) -> Task:
    # A sweep over other recordings or labels under that name must not take the store of one that runs.
    folder = audio.place(corpus, plan.storage.absolute() / PREPARED / _store(corpus, plan))
    with _bar(console) as bar:
        line = bar.add_task(f"preparing {corpus.name}", total=len(corpus.clips))
        waveforms = audio.prepare(
            corpus, folder, progress=lambda done, total: bar.update(line, completed=done), map=map
        )
    _say_left_out(plan, waveforms, console)
    if not plan.allow_incomplete:
        corpora.check_complete(waveforms.corpus)  # a copy full of broken files is no copy
    for note in (*waveforms.corpus.notes, *_copies(waveforms.corpus)):
        console.print(f"[dim]{escape(f'{corpus.name}: {note}')}[/dim]")
    split = splits.split(waveforms.corpus, protocol=plan.protocol)
    if plan.refit and "lbfgs" in {
        plan.probe,
        *(kind for one in plan.searched if one.name == "probe" for kind in one.choices),
    }:
        raise InputError(
            "--refit leaves no clips for the penalty of probe=lbfgs, which must be chosen on clips that were not "
            "learned. Leave out one of the two."
        )
    inner = folds.cut(split)
    for note in (*_crossing(waveforms.corpus, split), *_notes(plan, split, inner)):
        console.print(f"[dim]{escape(f'{corpus.name}: {note}')}[/dim]")
    return Task(corpus.name, folder, waveforms, split, splits.fold_count(waveforms.corpus, plan.protocol), inner)


def _store(corpus: Corpus, plan: Plan) -> str:
    """What the corpus' store is called: by its name, commit and choice of columns."""
    columns = {} if corpus.name in CORPORA else plan.columns.given
    said = [corpus.name, *([corpus.revision[:12]] if corpus.revision else []), *map("=".join, columns.items())]
    return re.sub(r"[/\\]", "_", "@".join(said))


def _copies(corpus: Corpus) -> Iterator[str]:
    """Recordings that are there more than once."""
    if not corpus.copies:
        return
    yield f"{len(corpus.copies)} recordings are there more than once, byte for byte: {_shown(corpus.copies)}."
    labels = {clip.key: set(clip.labels) for clip in corpus.clips}
    at_odds = [same for same in corpus.copies if any(labels[key] != labels[same[0]] for key in same)]
    if at_odds:
        yield f"{len(at_odds)} of them carry different labels: {_shown(at_odds)}."


def _crossing(corpus: Corpus, split: Split) -> Iterator[str]:
    """What copies mean for a split that stands as its lists or folds are."""
    if found := splits.crossing(split, corpus):
        shown = _shown(found)
        yield f"{len(found)} of them stand on two sides of this split, which stands as it is: {shown}."


def _shown(copies: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(same[:SHOWN_COPIES]) for same in copies[:SHOWN_COPIES])
    return shown + ("; ..." if len(copies) > SHOWN_COPIES else "")


def _notes(plan: Plan, split: Split, inner: Folds) -> Iterator[str]:
    """What the search and the race cannot do here as they were asked to."""
    if plan.metric and (used := scores.fitting(plan.metric, multi_label=split.multi_label)) != plan.metric:
        labels = "several labels" if split.multi_label else "one label"
        yield f"Each clip carries {labels}, so there is no {plan.metric}; {used} decides instead."
    if plan.select == "holdout":
        return
    if len(inner) == 1:
        yield "Its training clips cannot be cut into further inner folds; the validation side alone decides."
    elif len(inner) < folds.FOLDS:
        yield f"A race has {len(inner)} inner folds here, not {folds.FOLDS}: there is no more to hold out."
    if inner.always_train:
        names = ", ".join(inner.always_train[:SHOWN_NAMES])
        more = f" and {len(inner.always_train) - SHOWN_NAMES} more" if len(inner.always_train) > SHOWN_NAMES else ""
        yield f"Never held out by an inner fold, for training needs them: {names}{more}."


def _together(items: Sequence[Item], make: Callable[[Item], Made]) -> list[Made]:
    made: list[Made] = []
    problems: list[str] = []
    for item in items:
        try:
            made.append(make(item))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return made


def _say_left_out(plan: Plan, waveforms: Waveforms, console: Console) -> None:
    """The table of the clips that no backbone, or one of them, can learn; all of them go into the sweep's folder."""
    clips = [LeftOut(fault) for fault in waveforms.faults]
    for backbone in plan.backbones:
        short = method.embeddable(backbone, waveforms).faults[len(waveforms.faults) :]
        clips += [LeftOut(fault, backbone) for fault in short]
    folder = left_out.folder_of(plan.folder, waveforms.corpus.name)
    left_out.record(folder, clips)
    if clips:
        whole = len(waveforms.corpus.clips) + len(waveforms.faults)
        console.print(left_out.table(waveforms.corpus.name, clips, of=whole))
        console.print(f"  [dim]all of them: {escape(str(folder / left_out.FILE))}[/dim]", soft_wrap=True)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
