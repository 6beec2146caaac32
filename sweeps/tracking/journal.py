"""The journal: what a sweep says of its runs, one line of JSON per event, on disk before anything else happens.

Lines are appended whole or not at all, and a mark tells how many of them MLflow has. A killed driver or a server that
is away loses nothing: the next start replays the rest. Knows nothing of MLflow.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from audioconfit import files

EVENTS = "events.jsonl"  # in the sweep's folder `tracking`


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    DROPPED = "dropped"  # half-way: another recipe has become the best


@dataclass(frozen=True)
class Start:
    """A run begins, or goes on. `cell` None: it is a cell's own run."""

    key: str
    time: int  # milliseconds since 1970, as MLflow counts
    cell: str | None
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Numbers of one step."""

    key: str
    time: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Note:
    """Text for people, in place of what stood there; none leaves it."""

    key: str
    time: int
    note: str


@dataclass(frozen=True)
class End:
    """How a run ended, and the folder whose files become its artefacts."""

    key: str
    time: int
    outcome: Outcome
    why: str | None = None
    files: str | None = None


Event = Start | Metrics | Note | End
KINDS: dict[str, type[Start] | type[Metrics] | type[Note] | type[End]] = {
    "start": Start,
    "metrics": Metrics,
    "note": Note,
    "end": End,
}
NAMES = {kind: name for name, kind in KINDS.items()}


class Journal:
    """The events of one sweep, in order; opened where an earlier driver left it.

    `unapplied` are the events that MLflow has not got, with their numbers; `known` the keys of all events before this
    start; `begun` the keys whose end is not in the journal.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._mark = folder / EVENTS, folder / "events.applied"
        self.begun: set[str] = set()
        self.applied = int(self._mark.read_text()) if self._mark.exists() else 0
        events = self._read()
        for event in events:
            self._note(event)
        self.known = {event.key for event in events}
        self.unapplied = list(enumerate(events))[self.applied :]
        self.written = len(events)
        self._writing = threading.Lock()
        self._file = self.path.open("ab", buffering=0)

    def write(self, event: Event, then: Callable[[int, Event], None]) -> None:
        """Appends the event and calls `then` with its number before any later event can be appended: the confirmation
        writes from several threads, and the mark counts lines.

        Raises:
            OSError: the disk is full; nothing was appended.
        """
        with self._writing:
            self._append(encode(event))
            then(self.written, event)
            self.written += 1
            self._note(event)

    def mark_applied(self, count: int) -> None:
        """Remembers that MLflow has the first `count` events."""
        self.applied = count
        files.write(self._mark, str(count))

    def close(self) -> None:
        self._file.close()

    def _append(self, line: bytes) -> None:
        """The whole line or nothing of it, where the disk is full."""
        end = self.path.stat().st_size
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            os.truncate(self.path, end)
            raise

    def _read(self) -> list[Event]:
        """All events. A last line that a kill left half written is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        return [decode(line) for line in content[:whole].splitlines()]

    def _note(self, event: Event) -> None:
        if isinstance(event, Start):
            self.begun.add(event.key)
        elif isinstance(event, End):
            self.begun.discard(event.key)


def encode(event: Event) -> bytes:
    """One line, as the journal holds it."""
    return json.dumps({"kind": NAMES[type(event)], **vars(event)}).encode() + b"\n"


def decode(line: bytes) -> Event:
    """What `encode` wrote, in this or an earlier version."""
    values: dict[str, Any] = json.loads(line)
    kind = KINDS[values.pop("kind")]
    if kind is End:
        values["outcome"] = Outcome(values["outcome"])
    return kind(**values)
