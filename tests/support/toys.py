"""Toys: work for slots that knows no audio, so that queueing, dying and resuming can be seen in seconds."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray

from sweeps.slots.slot import Tell
from sweeps.trial.assignment import Assignment


class Short:
    """A worker's actor, to be killed. Here, for workers can import this module and no test's."""


class Maker:
    """An actor that makes a placement group and keeps it."""

    def make(self) -> str:
        self.group = ray.util.placement_group([{"CPU": 0.1}])
        return str(self.group.id.hex())


def work(task: dict[str, Any], tell: Tell) -> None:
    """`steps` steps of a counter; `die_once` names a file: the worker that makes it dies. Ends with its pid."""
    for step in range(1, task.get("steps", 2) + 1):
        time.sleep(task.get("seconds", 0.0))
        if step == task.get("raise_at"):
            raise task.get("error", ValueError("this toy is broken"))
        if step == task.get("die_at") and _first(task["die_once"]):
            os._exit(1)
        if step == task.get("hang_at") and _first(task["die_once"]):
            time.sleep(3600)
        if not tell(step, {"epoch": step, "count": step}):
            return
    tell(task.get("steps", 2) + 1, {"epoch": task.get("steps", 2) + 1, "ended": True, "pid": os.getpid()})


def _first(path: str) -> bool:
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def trial(assignment: Assignment, tell: Tell) -> None:
    """A sweep's trial that takes no time: one epoch with an early score, then the final one, best at a rate of 1e-2."""
    with stamped(assignment.root):
        epochs = assignment.recipe.epochs
        score = 1 / (1 + abs(math.log10(assignment.recipe.probe_lr) + 2))
        if tell(1, {"epoch": 1, "loss": 1.0, "valid_knn": score}):
            tell(epochs + 1, {"epoch": epochs + 1, "valid_score": score, "cost": 1.0, "ended": True})


STAMPS = "stamps"


@contextmanager
def stamped(folder: Path) -> Iterator[None]:
    """Notes in the folder when the block began and ended."""
    began = time.time()
    yield
    with (folder / STAMPS).open("a") as file:
        file.write(f"{began} {time.time()}\n")


def pauses(folder: Path) -> list[float]:
    """Seconds between the end of each stamped block and the begin of the next."""
    return [after[0] - before[1] for before, after in pairwise(_stamps(folder))]


def span(folder: Path) -> tuple[float, float]:
    """When the first stamped block ended, and the last one."""
    times = _stamps(folder)
    return times[0][1], times[-1][1]


def _stamps(folder: Path) -> list[tuple[float, ...]]:
    return [tuple(map(float, line.split())) for line in (folder / STAMPS).read_text().splitlines()]
