"""The journal: what a sweep says of its runs, one line of JSON per event, on disk before anything else happens.

Lines are appended whole or not at all, and a mark tells how many of them MLflow has. A killed driver or a server that
is away loses nothing: the next start replays the rest. Knows nothing of MLflow.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from audioconfit import files

EVENTS, MARK = "events.jsonl", "events.applied"  # in the sweep's folder `tracking`


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
DAMAGES = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of a line that is no event
KINDS: dict[str, type[Start] | type[Metrics] | type[Note] | type[End]] = {
    "start": Start,
    "metrics": Metrics,
    "note": Note,
    "end": End,
}
NAMES = {kind: name for name, kind in KINDS.items()}


class Journal:
    """The events of one sweep, in order; opened where an earlier driver left it.

    `unapplied` are the events that MLflow has not got, with their numbers; `known` the keys of all events; `begun` the
    keys whose end is not in the journal; `damaged` the lines that cannot be read, and are left out; `has_lost` whether
    there are such, or were more lines when MLflow was told of them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._mark = folder / EVENTS, folder / MARK
        self.begun: set[str] = set()
        self.known: set[str] = set()
        self.damaged: list[int] = []
        lines = self._read()
        self._events = [(number, event) for number, event in enumerate(lines) if event is not None]
        self.written = len(lines)
        marked = self._applied()
        self.applied, self.has_lost = min(marked, self.written), bool(self.damaged) or marked > self.written
        for _, event in self._events:
            self._note(event)
        self.unapplied = [(number, event) for number, event in self._events if number >= self.applied]
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

    def replay(self) -> None:
        """MLflow has lost what it had: every event is unapplied again."""
        self.unapplied = list(self._events)
        self.mark_applied(0)

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

    def _applied(self) -> int:
        """What the mark says. Where it says nothing MLflow is told all again, which changes nothing that it has."""
        try:
            return max(0, int(self._mark.read_text()))
        except (FileNotFoundError, ValueError):
            return 0

    def _read(self) -> list[Event | None]:
        """All events, None for a line that is none. A last line that a kill left half written is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        return [self._decoded(number, line) for number, line in enumerate(content[:whole].split(b"\n")[:-1])]

    def _decoded(self, number: int, line: bytes) -> Event | None:
        try:
            return decode(line)
        except DAMAGES:
            self.damaged.append(number + 1)
            return None

    def _note(self, event: Event) -> None:
        self.known.add(event.key)
        if isinstance(event, Start):
            self.begun.add(event.key)
        elif isinstance(event, End):
            self.begun.discard(event.key)


def readable(content: bytes) -> Iterator[Event]:
    """The events of a journal's content, for readers; what is half written or damaged is passed over."""
    for line in content.split(b"\n")[:-1]:
        with suppress(*DAMAGES):
            yield decode(line)


def encode(event: Event) -> bytes:
    """One line, as the journal holds it."""
    return json.dumps({"kind": NAMES[type(event)], **vars(event)}).encode() + b"\n"


def decode(line: bytes) -> Event:
    """What `encode` wrote, in this or an earlier version."""
    values: dict[str, Any] = json.loads(line)
    kind = KINDS[values.pop("kind")]
    if kind is End:
        values["outcome"] = Outcome(values["outcome"])
    event = kind(**values)
    if not isinstance(event.key, str):
        raise TypeError(f"{event.key!r} is no key")
    return event
