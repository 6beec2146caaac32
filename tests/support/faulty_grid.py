"""The command with work that fails in some trials, in ways that only the worker itself can bring about."""

import sys
from dataclasses import replace

from sweeps import grid
from sweeps.request import head_start
from sweeps.slots.slot import Tell
from sweeps.trial import work as trial
from sweeps.trial.assignment import Assignment

RAISES, NO_MEMORY, DIVERGES = 1, 3, 5


def work(assignment: Assignment, tell: Tell) -> None:
    """A trial as always, but for three numbers."""
    number = assignment.key.rpartition("-")[2]
    if number == f"{RAISES:04d}":
        raise RuntimeError("this trial is broken")
    if number == f"{NO_MEMORY:04d}":
        bytearray(1 << 60)  # a real MemoryError: no machine has it
    if number == f"{DIVERGES:04d}":
        assignment = replace(assignment, recipe=assignment.recipe.model_copy(update={"lr": 1e30, "warmup_steps": 0}))
    HONEST(assignment, tell)


HONEST = trial.work

if __name__ == "__main__":
    head_start.WORK = "faulty_grid:work"  # by a name that workers can import
    sys.exit(grid.main())
