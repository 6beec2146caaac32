"""A slot as it travels to its workers. Train's controllers, one per slot and all on the head, unpickle it on the way,
so it loads neither torch nor the method: that cost each of them 130 MB and 5 s of CPU time.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sweeps.slots.jobs import Jobs

Tell = Callable[[int, dict[str, Any] | None], bool]
Work = Callable[[Any, Tell], None]


def place(work: Work | str) -> tuple[str, str]:
    """The module and the name of a job's work, which may be given as "module:name" by those who do not import it."""
    if isinstance(work, str):
        module, _, name = work.partition(":")
        return module, name
    return work.__module__, work.__name__


@dataclass(frozen=True)
class Slot:
    """What a slot's workers need to know: its queue and name, what a job does (module and name of a function that they
    can import), after how many jobs they are replaced, and what share of a GPU each may take.
    """

    jobs: Jobs
    name: str
    work: tuple[str, str]
    recycle_after: int
    gpus: float = 0.0

    def find_work(self) -> Work:
        """What a job does."""
        module, name = self.work
        found: Work = getattr(importlib.import_module(module), name)
        return found
