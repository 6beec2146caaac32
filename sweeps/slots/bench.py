"""The bench: which slots get no more jobs, for job after job failed on them. It counts, and job_queue.py acts on it."""

from dataclasses import dataclass, field
from enum import Enum

MOST_FAILURES = 2  # in a row, without progress between
MOST_DEATHS = 5  # of workers in a row, none of which took a job


class Fault(Enum):
    """Whose a fault is, and so what it ends."""

    RECIPE = "recipe"  # the trial
    SLOT = "slot"  # the slot, when it happens twice in a row; the job goes to another one
    STORAGE = "storage"  # the sweep, until somebody has mended it; no trial
    NODE = "node"  # as the slot's, where a slot of another node is up, for the storage may do well there; else as above
    UNCLEAR = "unclear"  # a worker's death, an unknown error: another slot is asked for its opinion


@dataclass(frozen=True)
class Failed:
    """A job that failed on a slot, and why. `certain`: by the slot's fault, as far as an error can tell."""

    key: str
    why: str
    certain: bool


@dataclass
class Bench:
    """The failures in a row of each slot.

    A worker that dies may have been killed by its job, too. So failures that nothing explains bench a slot when they
    are of different jobs; and a job that turns out to be to blame is taken off every slot's account.
    """

    rows: dict[str, list[Failed]] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)

    def failed(self, slot: str, failure: Failed) -> bool:
        """Counts it. Whether it benches the slot."""
        was = self.holds(slot)
        self.rows.setdefault(slot, []).append(failure)
        return self.holds(slot) and not was

    def died(self, slot: str) -> bool:
        """A worker died before it took a job, killed for memory more often than not. Whether that benches the slot."""
        self.deaths[slot] = self.deaths.get(slot, 0) + 1
        return self.deaths[slot] == MOST_DEATHS

    def took(self, slot: str) -> None:
        """Its worker lives long enough to take a job."""
        self.deaths.pop(slot, None)

    def clear(self, slot: str) -> None:
        """It made progress with a job, or moved to another node."""
        self.rows.pop(slot, None)
        self.deaths.pop(slot, None)

    def acquit(self, key: str) -> None:
        """The job itself was to blame."""
        self.rows = {slot: [one for one in row if one.key != key] for slot, row in self.rows.items()}

    def holds(self, slot: str) -> bool:
        """Whether the slot gets no more jobs."""
        row = self.rows.get(slot, [])
        failures = max(sum(one.certain for one in row), len({one.key for one in row}))
        return failures >= MOST_FAILURES or self.is_given_up(slot)

    def is_given_up(self, slot: str) -> bool:
        """Whether its workers do not live long enough to take a job."""
        return self.deaths.get(slot, 0) >= MOST_DEATHS

    def reasons(self) -> dict[str, str]:
        """Why, of each benched slot."""
        died = f"its workers died {MOST_DEATHS} times in a row before they took a job"
        row = self.rows
        return {
            slot: died if self.is_given_up(slot) else f"{row[slot][-1].why}, {len(row[slot])} times in a row"
            for slot in sorted(row.keys() | self.deaths.keys())
            if self.holds(slot)
        }
