"""Toys: work for slots that knows no audio, so that queueing, dying and resuming can be seen in seconds."""

import os
import time
from pathlib import Path
from typing import Any

from sweeps.slots import Tell


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
