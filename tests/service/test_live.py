"""The live table: how long the search will still take, from the pace so far."""

import heapq
import io
import random

import makers
import pytest
from rich.console import Console

from sweeps.terminal.live import LiveTable
from sweeps.tracking.journal import Outcome

TRIALS, START_SECONDS = 40, 90.0


class Clock:
    """The time of a simulation."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulated(slots: int, seed: int) -> tuple[float, float]:
    """Trials of very unlike lengths on slots that first take a minute and a half to start: what the table says at half
    of the trials, and what it then takes.
    """
    draw, clock = random.Random(seed), Clock()
    cell = makers.cell()
    table = LiveTable([cell], trials=TRIALS, console=Console(file=io.StringIO()), clock=clock)
    ends: list[float] = []
    begun, said, half = 0, None, 0.0
    while begun < slots:
        table.started(cell.name)
        heapq.heappush(ends, START_SECONDS + draw.lognormvariate(3.0, 0.5))
        begun += 1
    for ended in range(1, TRIALS + 1):
        clock.now = heapq.heappop(ends)
        table.ended(cell.name, Outcome.COMPLETE, 0.5)
        if begun < TRIALS:
            table.started(cell.name)
            heapq.heappush(ends, clock.now + draw.lognormvariate(3.0, 0.5))
            begun += 1
        if ended == TRIALS // 2:
            said, half = table._seconds_left(), clock.now
    assert said is not None
    return said, clock.now - half


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_at_half_of_the_trials_the_time_left_is_right_to_30_per_cent(slots: int) -> None:
    wrong = [abs(said / true - 1) for said, true in (simulated(slots, seed) for seed in range(40))]
    assert sum(error < 0.3 for error in wrong) >= 30  # of 40, whose trials take 8 s to a minute
    assert sum(wrong) / len(wrong) < 0.25


def test_nothing_is_said_before_each_slot_has_ended_a_trial() -> None:
    clock = Clock()
    table = LiveTable([makers.cell()], trials=5, console=Console(file=io.StringIO()), clock=clock)
    name = makers.cell().name
    for _ in range(2):
        table.started(name)
    for clock.now, said in ((10.0, None), (11.0, None), (15.0, (5 - 3 + 0.5) * 4.0)):
        table.ended(name, Outcome.COMPLETE, 0.5)
        assert table._seconds_left() == said
        table.started(name)
