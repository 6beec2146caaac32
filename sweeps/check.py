"""Look a storage over: `python sweeps/check.py STORAGE`, with `--repair` to mend what can be mended.

Reads every stored file once and compares it with its checksum. Nothing is removed that a sweep cannot make again, and
databases are set aside, never deleted. Exit code 0: nothing is wrong (any more), 1: something is, 2: refused.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from audioconfit import audio, errors, files
from audioconfit.audio.waveforms import INDEX
from audioconfit.errors import InputError
from sweeps import faults, identity
from sweeps.outcome import confirmation, race
from sweeps.report import origin
from sweeps.request import datasets, resuming
from sweeps.search import rebuilding
from sweeps.tracking import journal, places
from sweeps.trial.assignment import RESULT
from sweeps.trial.stages import StageStore

MLFLOW, OPTUNA, TRACKING = "mlflow.db", "optuna.db", "tracking"
MADE_ANEW = (confirmation.RECORD, race.RECORD, resuming.CONDUCT, origin.RECORD, datasets.PINS)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong; `mend` None: it mends itself at the next start, or nobody can, as `then` says."""

    what: Path
    problem: str
    then: str
    mend: Callable[[], object] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python sweeps/check.py", description=__doc__)
    parser.add_argument("storage", type=Path, help="folder of prepared corpora and sweeps (their --storage)")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    asked = parser.parse_args(arguments)
    return errors.guard(lambda: _check(asked.storage, Console(), repair=asked.repair))


def _check(storage: Path, console: Console, *, repair: bool) -> int:
    if not storage.is_dir():
        raise InputError(f"There is no folder {storage}; name the --storage of a sweep.")
    left = 0
    for finding in audit(storage.absolute(), repair=repair):
        console.print(f"{finding.what}: {finding.problem}", soft_wrap=True, markup=False, highlight=False)
        if repair and finding.mend is not None:
            finding.mend()
            console.print(f"  mended. {finding.then}", soft_wrap=True, markup=False, highlight=False)
        else:
            left += 1
            how = "--repair mends it. " if finding.mend is not None else ""
            console.print(f"  {how}{finding.then}", soft_wrap=True, markup=False, highlight=False)
    console.print({0: "Nothing is wrong.", 1: "One thing is wrong."}.get(left, f"{left} things are wrong."))
    return 1 if left else 0


def audit(storage: Path, *, repair: bool = False) -> Iterator[Finding]:
    """All that is wrong in a storage. Each finding may be mended before the next is asked for.

    Raises:
        InputError: with `repair`, a sweep in it runs.
    """
    sweeps = [folder for folder in sorted(storage.iterdir()) if resuming.has_begun(folder)]
    for folder in sweeps if repair else ():
        with resuming.lease(folder):
            pass
    again = "Run the command of each sweep again: it writes its runs and champions anew from its journal."
    yield from _database(storage / MLFLOW, again, partial(_set_aside, storage / MLFLOW))
    for store in sorted((storage / datasets.PREPARED).glob("*")):
        yield from _prepared(store)
    for folder in sweeps:
        yield from _studies(folder)
        yield from _records(folder)
        yield from _journal(folder)
        yield from _place(folder)
        yield from _stages(folder)
        yield from _results(folder)


def _database(path: Path, then: str, mend: Callable[[], object]) -> Iterator[Finding]:
    if (why := faults.damage(path, whole=True)) is not None:
        yield Finding(path, f"damaged ({why})", then, mend)


def _set_aside(path: Path) -> None:
    """Under another name, with what SQLite keeps beside it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for one in (path, *faults.beside(path)):
        if one.exists():
            one.rename(one.with_name(f"{one.name}.damaged-{stamp}"))


def _prepared(store: Path) -> Iterator[Finding]:
    if not (store / INDEX).exists():
        return  # a preparation that goes on
    try:
        clips = audio.load(store).damaged()
        problem = f"{len(clips)} recordings are not what was decoded, such as {clips[0]}" if clips else None
    except (InputError, KeyError, TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        then = "The next start of a sweep over it decodes its recordings again."
        yield Finding(store, problem, then, (store / INDEX).unlink)


def _studies(folder: Path) -> Iterator[Finding]:
    path = folder / OPTUNA
    events = _events(folder)
    begun = {event.cell for event in events if isinstance(event, journal.Start) and event.tags.get("kind") == "trial"}
    if (why := faults.damage(path, whole=True)) is not None:
        problem = f"damaged ({why})"
    elif begun and not rebuilding.names(path) & begun and not _is_elsewhere(folder):
        problem = f"has no study of {', '.join(sorted(map(str, begun)))} (none is wrong if --optuna-storage has them)"
    else:
        return
    cells, sweep = _settings(folder), identity.known(folder) or _lost_id(folder)
    if not cells or sweep is None:
        yield Finding(path, problem, f"Without {resuming.RECORD} and {identity.RECORD} nothing tells what it held.")
        return
    then = "Its studies are written anew from the journal; the next start goes on with them."
    yield Finding(path, problem, then, partial(_rebuild, folder, cells, sweep, events))


def _rebuild(folder: Path, cells: dict[str, dict[str, Any]], sweep: str, events: Sequence[journal.Event]) -> None:
    _set_aside(folder / OPTUNA)
    with files.whole(folder / OPTUNA) as temporary:
        rebuilding.studies(temporary, cells, sweep, events)


def _is_elsewhere(folder: Path, flag: str = "--optuna-storage") -> bool:
    """Whether the sweep was started with studies, or runs, in another storage, as far as it noted its command."""
    with suppress(InputError):
        return flag in origin.of(folder).get("command", "")
    return False


def _lost_id(folder: Path) -> str | None:
    """The id of a sweep whose record and studies are lost: that of its runs; where nothing bears one, a new one."""
    database = folder.parent / MLFLOW
    if (found := places.sweep(database, folder.name)) is not None:
        return found
    is_free = not _is_elsewhere(folder) and not _is_elsewhere(folder, "--tracking-uri")
    return identity.draw() if is_free and places.known(database, folder.name) is None else None


def _settings(folder: Path) -> dict[str, dict[str, Any]]:
    with suppress(InputError):
        return dict(resuming.recorded(folder))
    return {}


def _records(folder: Path) -> Iterator[Finding]:
    """The small files of JSON."""
    for name in MADE_ANEW:
        if (folder / name).exists() and not _reads(folder / name):
            yield Finding(folder / name, "cannot be read", "The next start makes it anew.", (folder / name).unlink)
    cells, marked = rebuilding.settings_of(folder / OPTUNA)
    if (folder / resuming.RECORD).exists() and not _reads(folder / resuming.RECORD):
        mend = partial(files.write, folder / resuming.RECORD, json.dumps(cells, indent=2)) if cells else None
        then = "It is written anew from the studies." if cells else "No study says what it held; start anew."
        yield Finding(folder / resuming.RECORD, "cannot be read", then, mend)
    if (folder / identity.RECORD).exists() and identity.known(folder) is None:
        sweep = marked or _lost_id(folder)
        mend = partial(files.write, folder / identity.RECORD, json.dumps({"id": sweep})) if sweep else None
        then = (
            "The id is that of the studies and runs." if sweep else "Runs in MLflow bear it as a tag; write it by hand."
        )
        yield Finding(folder / identity.RECORD, "cannot be read", then, mend)


def _reads(path: Path) -> bool:
    try:
        files.read_json(path, "")
    except InputError:
        return False
    return True


def _events(folder: Path) -> list[journal.Event]:
    path = folder / TRACKING / journal.EVENTS
    return list(journal.readable(path.read_bytes())) if path.exists() else []


def _journal(folder: Path) -> Iterator[Finding]:
    path = folder / TRACKING / journal.EVENTS
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    if lost := lines - len(_events(folder)):
        then = "What they said is lost; the others are sent to MLflow again, which changes nothing that it has."
        yield Finding(path, f"{lost} of {lines} lines cannot be read", then, partial(_drop_lines, folder))


def _drop_lines(folder: Path) -> None:
    path = folder / TRACKING / journal.EVENTS
    content = b"".join(map(journal.encode, _events(folder)))
    with files.whole(path) as temporary:
        temporary.write_bytes(content)
    files.write(folder / TRACKING / journal.MARK, "0")


def _place(folder: Path) -> Iterator[Finding]:
    """Where MLflow keeps the sweep's artefacts, if it is the storage's own."""
    database, sweep = folder.parent / MLFLOW, identity.known(folder)
    location = places.known(database, folder.name)
    if sweep is None or location is None:
        return
    try:
        places.check(location, folder / TRACKING, identity.Identity(folder.name, sweep))
    except InputError:
        new = places.of(folder / TRACKING)
        then = f"MLflow writes to {new} from now on."
        mend = partial(places.move, database, location, new)
        yield Finding(database, f"keeps the artefacts of {folder.name} in {location}", then, mend)


def _stages(folder: Path) -> Iterator[Finding]:
    store = StageStore(folder)
    for path in sorted((folder / "stages").glob("[!.]*")):
        if not store.is_whole(path.name):
            then = "A trial that needs it trains it again."
            yield Finding(path, "a stage is not what was stored", then, partial(store.has, path.name))
        elif files.damaged(path / "encoder"):
            then = "It is trained again where it is needed."
            mend = partial(store.has_encoder, path.name)
            yield Finding(path / "encoder", "an encoder is not what was stored", then, mend)


def _results(folder: Path) -> Iterator[Finding]:
    for path in sorted((folder / "trials").glob(f"*/{RESULT}")):
        if not _reads(path) or files.damaged(path.parent):
            then = "The next start makes it anew, if the sweep still needs it."
            yield Finding(path.parent, "a run's files are not what it left", then, path.unlink)


if __name__ == "__main__":
    sys.exit(main())
