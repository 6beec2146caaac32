"""Frozen runs: real trials of a frozen backbone in this process, a second each, as a slot would run them."""

import json
from pathlib import Path

from rich.console import Console

from sweeps.request import cells, datasets, flags
from sweeps.request.plan import Plan
from sweeps.trial import assignment as assignments
from sweeps.trial import stages, work
from sweeps.trial.assignment import Assignment

CLASSES = ["pitch-0", "pitch-1", "pitch-2"]


def plan_of(folder: Path, name: str) -> Plan:
    words = ["--datasets", str(folder / "tones"), "--backbones", "wav2vec2-random", "--methods", "frozen"]
    return flags.parse([*words, "--chunks", "0.25", "--storage", str(folder / "storage"), "--name", name], {})


def begun(folder: Path, name: str, *, key: str = "key") -> Assignment:
    """A trial of the sweep of that name over the recordings as they are now."""
    plan = plan_of(folder, name)
    (task,) = datasets.prepare(plan, Console(quiet=True))
    (cell,) = cells.lay_out(plan, [task])
    recipe = cell.recipe({"batch_size": 8, "chunk_seconds": 0.25, "probe_lr": 0.01}).model_copy(
        update={"probe_epochs": 3}
    )
    return Assignment(recipe, cell.prepared, plan.folder, key, reads_test=True, hands_over=True)


def run(assignment: Assignment) -> list[str]:
    """The classes of its result."""
    forget()
    work.work(assignment, lambda step, metrics: True)
    classes: list[str] = json.loads((assignment.folder / "result.json").read_text())["classes"]
    return classes


def forget() -> None:
    """What a process has opened and checked: from now on this is another one."""
    for known in (work._loaded, assignments._is_whole, stages._is_whole):
        known.cache_clear()
