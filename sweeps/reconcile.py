"""Reconcile: what may and may not change between two starts of one sweep, and that only one driver is at it.

More trials, more seeds, more cells: welcome. Anything that makes the old trials incomparable with new ones (the corpus'
content, its protocol, a number of the recipe, the searched space, the code's result version) is refused with what
changed.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.cells import Cell

RECORD, LEASE = "sweep.json", "driver.lease"


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """This process is the sweep's only driver while the block runs.

    A lock of the operating system and no file that could go stale: it ends with its process, however that ends.

    Raises:
        ValueError: another driver of this sweep is alive.
    """
    with (folder / LEASE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"another driver ({file.read().strip() or 'unknown'}) is at the sweep in {folder}; "
                "wait for it, stop it, or choose another --name"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def reconcile(folder: Path, cells: Sequence[Cell]) -> None:
    """Compares the cells with those that earlier starts have worked on, and records the new ones.

    Raises:
        ValueError: a line per cell and setting that changed.
    """
    path = folder / RECORD
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    now = {cell.name: _said(cell) for cell in cells}
    changes = [
        f"{name}: {setting} was {known[name].get(setting)}, is {value}"
        for name, said in now.items()
        for setting, value in said.items()
        if name in known and known[name].get(setting) != value
    ]
    if changes:
        raise ValueError(
            "\n".join(changes)
            + f"\nthe trials of {folder.name!r} so far could not be compared with new ones: ask for what it was, "
            "or start a sweep under another --name"
        )
    temporary = path.with_suffix(".temporary")
    temporary.write_text(json.dumps(known | now, indent=2))
    temporary.replace(path)


def _said(cell: Cell) -> dict[str, Any]:
    """All that a cell's trials have in common, as JSON reads it back."""
    searched = {
        "batch_sizes": cell.space.batch_sizes,
        "chunk_seconds": cell.space.chunk_seconds,
        "probe_lr": cell.space.probe_lr,
    }
    fixed = {
        name: value
        for name, value in cell.base.model_dump(mode="json").items()
        if name not in ("batch_size", *searched)
    }
    return json.loads(json.dumps(fixed | searched))
