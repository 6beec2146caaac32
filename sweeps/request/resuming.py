"""Resuming: what may change between two starts of one sweep, and that only one driver runs it at a time.

More trials, more seeds and more cells may come. Anything that makes old trials incomparable with new ones (the corpus'
content, its protocol, a number of the recipe, the searched space, the code's result version) is refused with what
changed. What trials run on may change as well; where that shifts their numbers a little, it is said.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from audioconfit import files
from audioconfit.errors import InputError
from sweeps.request.cells import Cell

RECORD, LEASE, CONDUCT = "sweep.json", "driver.lease", "conduct.json"


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """This process is the sweep's only driver while the block runs.

    A lock of the operating system, not a file that could go stale: it ends with its process, however that ends.

    Raises:
        InputError: another driver of this sweep is alive.
    """
    with (folder / LEASE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"Another driver ({file.read().strip() or 'unknown'}) is already running the sweep in {folder}. "
                "Wait for it, stop it, or choose another --name."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of the cells that earlier starts of the sweep had, by the cell's name."""
    path = folder / RECORD
    if not path.exists():
        return {}
    way_out = f"python sweeps/check.py {folder.parent} --repair writes it anew from the studies."
    found = files.read_json(path, way_out)
    if not all(isinstance(settings, dict) for settings in found.values()):
        raise InputError(f"{path} is damaged (a cell has no settings). {way_out}")
    return found


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence per setting of a cell that is not what it was."""
    return [
        f"{setting} was {was.get(setting)}, is {now.get(setting)}."
        for setting in dict.fromkeys([*was, *now])
        if was.get(setting) != now.get(setting)
    ]


def has_begun(folder: Path) -> bool:
    """Whether a start of the sweep left something in its folder."""
    return any((folder / name).exists() for name in (RECORD, "optuna.db", "tracking"))


def reconcile(folder: Path, cells: Sequence[Cell]) -> None:
    """Compares the cells with those of earlier starts, and records the new ones.

    Raises:
        InputError: a line per cell and setting that changed.
    """
    known, now = recorded(folder), {cell.name: cell.settings for cell in cells}
    changed = [
        f"{name}: {change}" for name, settings in now.items() for change in changes(known.get(name, settings), settings)
    ]
    if changed:
        raise InputError(
            "\n".join(changed)
            + f"\nOld and new trials of {folder.name!r} could not be compared. Ask for what it was, or start a sweep "
            "under another --name."
        )
    files.write(folder / RECORD, json.dumps(known | now, indent=2))


def note_conduct(folder: Path, conduct: Mapping[str, float | None]) -> str | None:
    """Records how trials run from now on: values by flag, None where the machine chooses. Returns what to tell the user
    where that shifts the numbers of later trials against those of earlier ones.
    """
    path = folder / CONDUCT
    known: dict[str, list[float | None]] = {}
    with suppress(FileNotFoundError, InputError):  # it only tells; what is damaged begins anew
        known = {flag: values for flag, values in files.read_json(path, "").items() if _are_numbers(values)}
    used = {flag: list(dict.fromkeys([*known.get(flag, ()), value])) for flag, value in conduct.items()}
    files.write(path, json.dumps(used, indent=2))
    mixed = [f"{flag} {', '.join(map(_shown, values))}" for flag, values in used.items() if len(values) > 1]
    if not mixed:
        return None
    return (
        f"Trials of this sweep ran or will run with {'; '.join(mixed)}. They round and draw dropout differently (on "
        "GPUs precision auto means bf16 or fp16), so scores can differ by that; for trials alike start under another "
        "--name."
    )


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(value is None or isinstance(value, int | float) for value in values)


def _shown(value: float | None) -> str:
    return "as fits" if value is None else f"{value:g}"
