"""Metering: the CPU time of a process and of all that it starts, while they run and when they have ended."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.5  # seconds; what a process does between its last look and its end is not seen
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def metered() -> Iterator[Callable[[float], float]]:
    """Gives a function from time.time() to the CPU seconds spent until then by this process and all below it."""
    spent: dict[tuple[int, int], float] = {}  # by process, told apart by when they began
    history = [(time.time(), _look(spent))]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            history.append((time.time(), _look(spent)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda when: next((seconds for moment, seconds in history if moment >= when), history[-1][1])
    finally:
        over.set()
        thread.join()
        history.append((time.time(), _look(spent)))


def _look(spent: dict[tuple[int, int], float]) -> float:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # has ended
                continue
            found[int(folder.name)] = int(fields[1]), int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS
    family = {os.getpid()} | {pid for pid, began in spent if found.get(pid, (0, 0))[1] == began}
    while children := {pid for pid, (parent, *_) in found.items() if parent in family} - family:
        family |= children
    for pid in family & found.keys():
        _, began, seconds = found[pid]
        spent[pid, began] = seconds
    return sum(spent.values())
