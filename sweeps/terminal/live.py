"""The live table in the terminal, and plain lines where there is no terminal."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.request.cells import Cell
from sweeps.search.studies import Tally
from sweeps.tracking.journal import Outcome

LINE_EVERY_SECONDS = 15.0  # without a terminal


@dataclass
class Row:
    """One cell in the table."""

    wanted: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    best: float | None = None

    @property
    def ended(self) -> int:
        return self.complete + self.pruned + self.failed


class LiveTable:
    """A row per cell, updated as trials start and end. A context manager: it draws while the block runs."""

    def __init__(
        self, cells: Sequence[Cell], *, trials: int, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.clock = console, clock
        self.rows = {cell.name: Row(wanted=trials) for cell in cells}
        self.began = clock()
        self.ends: list[float] = []  # of this start of the sweep
        self.at_once = 1  # trials, so far at most
        self.phase, self.last_line = "search", -LINE_EVERY_SECONDS
        self.live = Live(console=console, refresh_per_second=2, get_renderable=self._draw, transient=True)

    def show_history(self, cell: str, tally: Tally) -> None:
        """What earlier starts of the sweep reached."""
        row = self.rows[cell]
        row.complete, row.pruned, row.failed, row.best = tally.complete, tally.pruned, tally.failed, tally.best

    def started(self, cell: str) -> None:
        self.rows[cell].running += 1
        self.at_once = max(self.at_once, sum(row.running for row in self.rows.values()))
        self._line()

    def ended(self, cell: str, outcome: Outcome, score: float | None = None) -> None:
        row = self.rows[cell]
        row.running -= 1
        row.complete += outcome is Outcome.COMPLETE
        row.pruned += outcome is Outcome.PRUNED
        row.failed += outcome is Outcome.FAILED
        self.ends.append(self.clock())
        if score is not None:
            row.best = score if row.best is None else max(row.best, score)
        self._line()

    def say(self, phase: str) -> None:
        """What the sweep does now."""
        self.phase = phase
        if not self.console.is_terminal:
            self.console.print(phase)

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def _seconds_left(self) -> float | None:
        """From the pace since each slot had ended a trial: until then they start, import and fill their caches, and
        begin all at once. The last slot ends half a trial after the average one. None before that.
        """
        ended = sum(row.ended for row in self.rows.values())
        wanted = sum(max(row.wanted, row.ended) for row in self.rows.values())
        if len(self.ends) <= self.at_once:
            return None
        pace = (self.clock() - self.ends[self.at_once - 1]) / (len(self.ends) - self.at_once)
        return (wanted - ended + (self.at_once - 1) / 2) * pace if ended < wanted else 0.0

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("cell")
        for heading in ("done", "running", "pruned", "failed", "best valid"):
            table.add_column(heading, justify="right")
        for name, row in self.rows.items():
            best = "" if row.best is None else f"{row.best:.3f}"
            failed = Text(str(row.failed), style="red" if row.failed else "dim")
            table.add_row(name, f"{row.ended}/{row.wanted}", str(row.running), str(row.pruned), failed, best)
        return Group(table, Text(self._status(), style="dim"))

    def _status(self) -> str:
        left = self._seconds_left()
        until = "" if left is None or self.phase != "search" else f", about {_duration(left)} left in the search"
        return f"{self.phase}: {_duration(self.clock() - self.began)} so far{until}"

    def _line(self) -> None:
        if self.console.is_terminal or self.clock() - self.last_line < LINE_EVERY_SECONDS:
            return
        self.last_line = self.clock()
        ended = sum(row.ended for row in self.rows.values())
        wanted = sum(row.wanted for row in self.rows.values())
        best = ", ".join(f"{name} {row.best:.3f}" for name, row in self.rows.items() if row.best is not None)
        self.console.print(
            f"{ended}/{wanted} trials; {self._status()}" + (f"; best: {best}" if best else ""), soft_wrap=True
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours else f"{minutes} m {seconds:02d} s" if minutes else f"{seconds} s"
