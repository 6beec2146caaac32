"""The journal without MLflow: what was written whole is there, in the form that earlier versions wrote."""

import os
from pathlib import Path

import pytest

from sweeps.tracking import journal
from sweeps.tracking.journal import End, Event, Journal, Metrics, Note, Outcome, Start

# As commit a43381f wrote them.
EARLIER = """\
{"kind": "start", "key": "cell:a", "time": 1, "cell": null, "name": "a", "params": {}, "tags": {"kind": "cell"}}
{"kind": "start", "key": "a-0", "time": 2, "cell": "a", "name": "0 a", "params": {"lr": "1"}, "tags": {"kind": "trial"}}
{"kind": "metrics", "key": "a-0", "time": 3, "step": 1, "metrics": {"epoch": 1.0, "loss": 0.5}}
{"kind": "note", "key": "cell:a", "time": 4, "note": "text"}
{"kind": "end", "key": "a-0", "time": 5, "outcome": "complete", "why": null, "files": "/somewhere"}
"""
EVENTS = [
    Start("cell:a", 1, None, "a", {}, {"kind": "cell"}),
    Start("a-0", 2, "a", "0 a", {"lr": "1"}, {"kind": "trial"}),
    Metrics("a-0", 3, 1, {"epoch": 1.0, "loss": 0.5}),
    Note("cell:a", 4, "text"),
    End("a-0", 5, Outcome.COMPLETE, None, "/somewhere"),
]


def test_events_are_read_and_written_as_earlier_versions_did() -> None:
    assert [journal.decode(line.encode()) for line in EARLIER.splitlines()] == EVENTS
    assert b"".join(map(journal.encode, EVENTS)).decode() == EARLIER


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(EARLIER + '{"kind": "metr')  # cut by a kill
    (tmp_path / "events.applied").write_text("3")
    opened = Journal(tmp_path)
    assert opened.unapplied == [(3, EVENTS[3]), (4, EVENTS[4])]
    assert opened.begun == {"cell:a"}
    assert opened.known == {"cell:a", "a-0"}
    numbers: list[int] = []
    opened.write(Note("cell:a", 6, "more"), lambda number, event: numbers.append(number))
    opened.close()
    assert numbers == [5]
    assert (tmp_path / "events.jsonl").read_bytes() == EARLIER.encode() + journal.encode(Note("cell:a", 6, "more"))


def test_the_mark_outlives_its_process(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for event in EVENTS:
        first.write(event, _ignore)
    first.mark_applied(4)
    first.close()
    again = Journal(tmp_path)
    again.close()
    assert again.unapplied == [(4, EVENTS[4])]


def test_a_line_that_a_full_disk_cuts_is_taken_back(tmp_path: Path) -> None:
    class Full:
        """Takes half of what it is given."""

        def write(self, line: bytes) -> int:
            with (tmp_path / "events.jsonl").open("ab") as file:
                return file.write(line[: len(line) // 2])

        def close(self) -> None: ...

    opened = Journal(tmp_path)
    opened.write(EVENTS[0], _ignore)
    whole = (tmp_path / "events.jsonl").read_bytes()
    opened._file.close()
    opened._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match=os.strerror(28)):
        opened.write(EVENTS[1], _ignore)
    assert (tmp_path / "events.jsonl").read_bytes() == whole
    assert opened.written == 1


def _ignore(number: int, event: Event) -> None:
    """Nobody waits for it."""
