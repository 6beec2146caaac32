"""The watch: looks after the slots from the driver, so that no sweep stands still in silence.

It writes down what the hub sees, lets the pool grow and shrink with the cluster, and halts the sweep with the cause
where no slot comes up for a while or where the storage is full.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from sweeps import storage
from sweeps.slots import Pool

LOOK_SECONDS = 1.0
GROW_SECONDS = 10.0


class Watch:
    """A thread of the driver, from its making to `close`.

    Args:
        log: appended to: who ran what when, for people who ask why.
        wait_seconds: so long no slot at all may be up.
        room: how many slots the cluster can hold and the sweep now use, or None where the number is fixed.
        resources: says what the slots ask for and what there is.
        halt: called with why the sweep cannot go on.
    """

    def __init__(
        self,
        hub: Any,
        pool: Pool,
        *,
        log: Path,
        wait_seconds: float,
        room: Callable[[], int] | None,
        resources: Callable[[], str],
        halt: Callable[[str], None],
    ) -> None:
        self.hub, self.pool, self.log, self.wait_seconds = hub, pool, log, wait_seconds
        self.room, self.resources, self.halt = room, resources, halt
        self.seen_slot = self.grown = time.monotonic()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends the watch after a last look: a hub that halted ends the search before anyone has seen why."""
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
        """The pool grows to so many slots, the idle ones beyond go: machines follow where the cluster scales."""
        ray.get(self.hub.need.remote(slots))
        self.pool.grow(slots)

    def _look(self) -> str | None:
        """Why the sweep cannot go on, if it cannot."""
        sight = ray.get(self.hub.look.remote())
        self._write(sight.events)
        if sight.halted:
            return storage.make_room(self.log.parent, sight.halted) if storage.says_full(sight.halted) else sight.halted
        if sight.live:
            self.seen_slot = time.monotonic()
        elif full := next((error for error in self.pool.errors if storage.says_full(error)), None):
            return storage.make_room(self.log.parent, full)
        elif time.monotonic() - self.seen_slot > self.wait_seconds:
            return self._no_slot()
        return None

    def _no_slot(self) -> str:
        last = f" The last attempt ended with {self.pool.errors[-1]}." if self.pool.errors else ""
        return (
            f"no slot came up for {self.wait_seconds:.0f} s: {self.resources()}.{last} Free the resources or ask for "
            "less (--workers-per-trial, --cpus-per-worker, --gpus-per-worker), or wait longer (--wait), "
            "then run the same command again"
        )

    def _write(self, events: list[tuple[float, str, str, str]]) -> None:
        if not events:
            return
        try:
            with self.log.open("a") as log:
                log.writelines(f"{when:.3f} {what} {slot} {detail}\n" for when, what, slot, detail in events)
        except OSError:  # a full disk ends the sweep for better reasons than this
            pass
