"""The supervisor: watches the slots from the driver, so that no sweep hangs in silence.

It logs what happens in the queue, lets the pool grow and shrink with the cluster, and halts the sweep with the cause
when no slot comes up for a while, none is of use, nothing moves any more, Ray is gone or the storage is full.
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ray

from sweeps import faults
from sweeps.slots.job_queue import Event
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool

LOOK_SECONDS = 1.0
GROW_SECONDS = 10.0
END_SECONDS = 30.0  # for a driver to end once it was told
GONE_LOOKS = 10  # in a row that do not reach Ray's control process, or whose question it does not answer
LONGEST_LOOK = 5.0  # seconds; a driver that was stopped has not waited for as long


class Supervisor:
    """A thread of the driver, from construction to `close`.

    Args:
        log: the file for the queue's events: who ran what when.
        wait_seconds: seconds without any live slot before the sweep halts.
        still_seconds: seconds without any sign of life of a job, while some wait, before the sweep halts.
        waiting: how many jobs the slots are still there for.
        room: how many slots the cluster can hold and the sweep can use by now; None where the number is fixed.
        resources: says what the slots ask for and what the cluster has.
        halt: called with why the sweep cannot go on.
        leave: called with the same where Ray is dead and the driver, which may wait for it, has not ended half a minute
            later.
    """

    def __init__(
        self,
        jobs: Jobs,
        pool: Pool,
        *,
        log: Path,
        wait_seconds: float,
        still_seconds: float,
        waiting: Callable[[], int],
        room: Callable[[], int] | None,
        resources: Callable[[], str],
        halt: Callable[[str], None],
        leave: Callable[[str], None],
    ) -> None:
        self.jobs, self.pool, self.log, self.wait_seconds = jobs, pool, log, wait_seconds
        self.still_seconds, self.waiting = still_seconds, waiting
        self.room, self.resources, self.halt, self.leave = room, resources, halt, leave
        self.control = ray.get_runtime_context().gcs_address
        self.gone = self.signs = 0
        self.is_dead = False  # Ray, as far as this sweep is concerned
        self.still, self.looked = 0.0, time.monotonic()
        self.seen_slot = self.grown = time.monotonic()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends after a last look: a queue that halts ends the search before the reason is read."""
        self.closing.set()
        self.thread.join(30.0)
        why = self._look_or_gone()
        if why is not None:
            self.halt(why)

    def _run(self) -> None:
        while not self.closing.wait(LOOK_SECONDS):
            why = self._look_or_gone()
            if why is not None:
                threading.Thread(target=self.halt, args=(why,), daemon=True).start()  # it may wait for a dead Ray, too
                if self.is_dead and not self.closing.wait(END_SECONDS):
                    self.leave(why)
                return
            if self.room is not None and time.monotonic() - self.grown > GROW_SECONDS:
                self.grown = time.monotonic()
                self._fit(self.room())

    def _fit(self, slots: int) -> None:
        """Grows the pool to that many slots and lets idle ones beyond them go; a cluster that scales follows."""
        self.jobs.need(slots)
        self.pool.grow(slots)

    def _look_or_gone(self) -> str | None:
        """Why the sweep cannot go on; also where Ray itself cannot be asked any more."""
        try:
            host, _, port = self.control.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), timeout=LONGEST_LOOK):
                pass
            why = self._look()
            self.gone = 0
            return why
        except (OSError, ray.exceptions.RayError) as error:
            self.gone += 1
            if self.gone < GONE_LOOKS or self.closing.is_set():
                return None
            self.is_dead = True
            return (
                f"Ray is gone: its control process at {self.control} or the job queue does not answer ({error}). "
                "Somebody or the system, for want of memory, has ended it. Run the same command again: what is done is "
                "kept."
            )

    def _look(self) -> str | None:
        """Why the sweep cannot go on, if it cannot."""
        status = self.jobs.status()
        self._write(status.events)
        if status.halted:
            full = faults.says_full(status.halted)
            return faults.make_room(self.log.parent, status.halted) if full else status.halted
        if status.benched and len(status.benched) >= self.pool.size:
            return _all_benched(status.benched)
        if status.live:
            self.seen_slot = time.monotonic()
            if (still := self._seconds_still(status.signs)) > self.still_seconds:
                self.is_dead = True
                return (
                    f"Nothing has moved for {still:.0f} s, though {status.live} slots are up: one of Ray's own "
                    "processes is gone or hangs. Run the same command again: what is done is kept."
                )
        elif error := next((error for error in self.pool.errors if faults.says_full(error)), None):
            return faults.make_room(self.log.parent, error)
        elif time.monotonic() - self.seen_slot > self.wait_seconds:
            return self._no_slot(status.benched)
        return None

    def _seconds_still(self, signs: int) -> float:
        """For how long no job has given a sign of life though some wait, by the looks of a driver that runs."""
        now = time.monotonic()
        moved = signs != self.signs or not self.waiting()
        self.still = 0.0 if moved else self.still + min(now - self.looked, LONGEST_LOOK)
        self.signs, self.looked = signs, now
        return self.still

    def _no_slot(self, benched: Mapping[str, str]) -> str:
        last = f" The last attempt ended with {self.pool.errors[-1]}." if self.pool.errors else ""
        last += "".join(f" {slot} gets no more jobs ({why})." for slot, why in benched.items())
        return (
            f"No slot came up for {self.wait_seconds:.0f} s: {self.resources()}.{last} Free the resources or ask for "
            "less (--workers-per-trial, --cpus-per-worker, --gpus-per-worker), or wait longer (--wait), "
            "then run the same command again."
        )

    def _write(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            with self.log.open("a") as log:
                log.writelines(f"{event.time:.3f} {event.what} {event.slot} {event.detail}\n" for event in events)
        except OSError:  # the log is not worth ending a sweep for
            pass


def _all_benched(benched: Mapping[str, str]) -> str:
    """Several slots mostly have one reason."""
    reasons = "; ".join(dict.fromkeys(benched.values()))
    return (
        f"No slot is of use any more, for one job after the other failed on {', '.join(benched)} ({reasons}). No trial "
        "is lost by it. Mend what is missing there; where workers are killed for want of memory, ask for fewer at a "
        "time (--slots, --workers-per-trial) or take a larger machine. Then run the same command again."
    )
