"""The supervisor: watches the slots from the driver, so that no sweep hangs in silence.

It logs what happens in the queue, lets the pool grow and shrink with the cluster, and halts the sweep with the cause
when no slot comes up for a while or the storage is full.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from sweeps import faults
from sweeps.slots.job_queue import Event
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool

LOOK_SECONDS = 1.0
GROW_SECONDS = 10.0


class Supervisor:
    """A thread of the driver, from construction to `close`.

    Args:
        log: the file for the queue's events: who ran what when.
        wait_seconds: seconds without any live slot before the sweep halts.
        room: how many slots the cluster can hold and the sweep can use by now; None where the number is fixed.
        resources: says what the slots ask for and what the cluster has.
        halt: called with why the sweep cannot go on.
    """

    def __init__(
        self,
        jobs: Jobs,
        pool: Pool,
        *,
        log: Path,
        wait_seconds: float,
        room: Callable[[], int] | None,
        resources: Callable[[], str],
        halt: Callable[[str], None],
    ) -> None:
        self.jobs, self.pool, self.log, self.wait_seconds = jobs, pool, log, wait_seconds
        self.room, self.resources, self.halt = room, resources, halt
        self.seen_slot = self.grown = time.monotonic()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends after a last look: a queue that halts ends the search before the reason is read."""
        self.closing.set()
        self.thread.join(30.0)
        why = self._look()
        if why is not None:
            self.halt(why)

    def _run(self) -> None:
        while not self.closing.wait(LOOK_SECONDS):
            why = self._look()
            if why is not None:
                self.halt(why)
                return
            if self.room is not None and time.monotonic() - self.grown > GROW_SECONDS:
                self.grown = time.monotonic()
                self._fit(self.room())

    def _fit(self, slots: int) -> None:
        """Grows the pool to that many slots and lets idle ones beyond them go; a cluster that scales follows."""
        self.jobs.need(slots)
        self.pool.grow(slots)

    def _look(self) -> str | None:
        """Why the sweep cannot go on, if it cannot."""
        status = self.jobs.status()
        self._write(status.events)
        if status.halted:
            full = faults.says_full(status.halted)
            return faults.make_room(self.log.parent, status.halted) if full else status.halted
        if status.live:
            self.seen_slot = time.monotonic()
        elif error := next((error for error in self.pool.errors if faults.says_full(error)), None):
            return faults.make_room(self.log.parent, error)
        elif time.monotonic() - self.seen_slot > self.wait_seconds:
            return self._no_slot()
        return None

    def _no_slot(self) -> str:
        last = f" The last attempt ended with {self.pool.errors[-1]}." if self.pool.errors else ""
        return (
            f"No slot came up for {self.wait_seconds:.0f} s: {self.resources()}.{last} Free the resources or ask for "
            "less (--workers-per-trial, --cpus-per-worker, --gpus-per-worker), or wait longer (--wait), "
            "then run the same command again"
        )

    def _write(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            with self.log.open("a") as log:
                log.writelines(f"{event.time:.3f} {event.what} {event.slot} {event.detail}\n" for event in events)
        except OSError:  # the log is not worth ending a sweep for
            pass
