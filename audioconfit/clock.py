"""The clock: where the time of a run goes, by phase, and how many clips it trained on. It is read where the work
happens; what is made of it is the caller's.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

# `training`: steps. `waiting`: for the answer of whoever is told of the progress. `rest`: weights, files, figures.
Phase = Literal["training", "validation", "extraction", "probe", "waiting", "rest"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Clock:
    """Runs from the moment it is made. Whatever is in no phase is the `rest`; `now` gives seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.clips = 0  # that training has seen, of all ranks
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._now, self._since = now, now()
        self._phases: list[Phase] = ["rest"]

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """The time of the block belongs to this phase, but that of phases within it."""
        self._settle()
        self._phases.append(name)
        try:
            yield
        finally:
            self._settle()
            self._phases.pop()

    def seconds(self) -> dict[Phase, float]:
        """So far, by phase."""
        self._settle()
        return dict(self._seconds)

    def shares(self) -> dict[Phase, float]:
        """The same as shares of the whole: they add up to 1."""
        seconds = self.seconds()
        whole = sum(seconds.values())
        return {name: spent / whole if whole else float(name == "rest") for name, spent in seconds.items()}

    def clips_per_second(self) -> float | None:
        """Of training alone. None: nothing was trained."""
        trained = self.seconds()["training"]
        return self.clips / trained if self.clips and trained else None

    def _settle(self) -> None:
        now = self._now()
        self._seconds[self._phases[-1]] += now - self._since
        self._since = now
