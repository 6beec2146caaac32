"""The job queue: between those who want results (the search, the confirmation) and the warm slots that work.

A slot belongs to no trial: whichever is free takes the next job. The queue keeps two jobs of one stage from running at
the same time, and watches over the slots: a silent one is killed and its job handed out again. It holds nothing that
its callers cannot tell it again, so a restarted queue goes on. It knows nothing of audio, Optuna or MLflow. Talk to it
through `Jobs` in jobs.py.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any

import ray

# After a restart, wait for the slots to announce their jobs; otherwise a running job is handed out twice.
LISTEN_SECONDS = 3.0
# A shorter pause is no reason to give a machine back: the confirmation follows on the search within seconds.
IDLE_SECONDS = 60.0
ATTEMPTS = 3  # at a job, without progress
MOST_DEATHS = 5
CLOSED, CANCELLED, DONE = "closed", "cancelled", "done"


@dataclass(frozen=True)
class Job:
    """One piece of work as it travels: enough for a restarted queue to learn it again. Only the slot unpickles `work`.

    `stage`: two jobs of one stage never run at the same time. `warmth`: what a slot must load for the job.
    """

    key: str
    work: bytes
    stage: str | None = None
    warmth: str | None = None


@dataclass
class Entry:
    """A job in the queue: who runs it, what it has reported, how it ended."""

    job: Job
    slot: str | None = None
    attempts: int = 0
    last_step: int = -1
    followed: int = -1
    heard: float = 0.0
    results: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    end: str | None = None
    cancelled: bool = False


@dataclass(frozen=True)
class Event:
    """What happened to a slot or a job, for people who ask why."""

    time: float
    what: str
    slot: str
    detail: str


@dataclass(frozen=True)
class Status:
    """How many slots are up, why the queue halted if it did, and the events since the last status."""

    live: int
    halted: str | None
    events: list[Event]


@dataclass(frozen=True)
class RankProcess:
    """One rank of a slot: its actor and process, and the placement group that a dead Train controller leaves behind."""

    actor: Any
    pid: int
    placement_group: Any


class JobQueue:
    """The rules of the queue; `Jobs.start` makes it a Ray actor."""

    def __init__(self, patience_seconds: float = 600.0, idle_seconds: float = IDLE_SECONDS) -> None:
        self.patience_seconds, self.idle_seconds = patience_seconds, idle_seconds
        self.jobs: dict[str, Entry] = {}
        self.ended: dict[str, Entry] = {}
        self.slots: dict[str, dict[int, RankProcess]] = {}
        self.warm: dict[str, str | None] = {}
        self.idle_since: dict[str, float] = {}
        self.needed: int | None = None  # how many slots the sweep can use; None: all
        self.deaths: dict[str, int] = {}  # of a slot's workers in a row, none of which took a job
        self.events: list[Event] = []
        self.closed = self.interrupted = False
        self.halted: str | None = None
        self.change = asyncio.Condition()
        self.born = time.time()
        self.watch: asyncio.Task[None] | None = None

    # Called by those who want results.

    async def follow(self, job: Job, after: int) -> tuple[int, dict[str, Any] | None, str | None]:
        """The first result past step `after`, or how the job ended. An unknown job is submitted.

        By step and not by count: a restarted queue has lost the old results.
        """
        self.watch = self.watch or asyncio.create_task(self._watchdog())
        entry = self.jobs.get(job.key) or self.ended.get(job.key)
        if entry is None:
            entry = self.jobs[job.key] = Entry(job)
            if self.interrupted:
                self._end(entry, CANCELLED)
        entry.followed = max(entry.followed, after)
        await self._wake_all()
        async with self.change:
            await self.change.wait_for(lambda: entry.last_step > after or entry.end is not None)
        for step, metrics in entry.results:
            if step > after:
                return step, metrics, None
        return after, None, entry.end

    async def cancel(self, key: str) -> None:
        """The job ends at its next step, on all its ranks; a job that is not running ends now."""
        if (entry := self.jobs.get(key)) is not None:
            entry.cancelled = True
            if entry.slot is None:
                self._end(entry, CANCELLED)
            await self._wake_all()

    # Called by the slots.

    async def join(self, slot: str, rank: int, process: RankProcess) -> None:
        """Each rank joins before each job, for the queue may have been restarted since."""
        known = self.slots.setdefault(slot, {}).get(rank)
        if known is None or known.pid != process.pid:
            self._log("join", slot, f"rank {rank} pid {process.pid}")
        self.slots[slot][rank] = process

    async def take(self, slot: str, wait_seconds: float = 10.0) -> Job | str | None:
        """The next job; None if there is none yet; CLOSED if there will be none or the slot is not needed any more."""
        await asyncio.sleep(max(0.0, self.born + LISTEN_SECONDS - time.time()))
        for entry in self._run_by(slot):  # a slot that asks again has lost its job
            self._requeue(entry, "its worker restarted")
        self.idle_since.setdefault(slot, time.time())
        async with self.change:
            try:
                await asyncio.wait_for(self.change.wait_for(lambda: self.closed or self._next(slot)), wait_seconds)
            except TimeoutError:
                return CLOSED if self._let_go(slot) else None
            if self.closed:
                return CLOSED
            taken = self._next(slot)
            if taken is None:
                return None
            self.deaths.pop(slot, None)
            self.idle_since.pop(slot, None)  # a dead worker's request may still be waiting beside its successor's
            taken.slot, taken.heard, taken.attempts = slot, time.time(), taken.attempts + 1
            self.warm[slot] = taken.job.warmth
        self._log("take", slot, taken.job.key)
        return taken.job

    async def report(self, slot: str, job: Job, step: int, metrics: dict[str, Any] | None) -> bool:
        """A result, or a sign of life (metrics None). Returns whether to go on. A step reported twice counts once.

        A result waits until its predecessor was followed, that is, judged: a trial is never more than one step ahead
        of its search, and the last seconds of a killed driver's worker change nothing.
        """
        entry = self._entry(job)
        entry.slot = entry.slot or slot
        if entry.slot != slot or entry.cancelled or entry.end is not None:
            return False
        if metrics is not None and step > entry.last_step:
            before, entry.last_step = entry.last_step, step
            entry.attempts = 1  # progress: the job was preempted, it is not poisonous
            entry.results.append((step, metrics))
            entry.heard = math.inf  # not silent: it waits for us
            await self._wake_all()
            async with self.change:
                await self.change.wait_for(lambda: entry.followed >= before or entry.cancelled or entry.end is not None)
        entry.heard = time.time()
        return entry.slot == slot and not entry.cancelled and entry.end is None

    async def finish(self, slot: str, job: Job, error: str | None = None) -> None:
        """The slot is done with the job. An error here is the job's own: it is not tried again."""
        entry = self._entry(job)
        if entry.slot in (slot, None) and entry.end is None:
            self._log("finish", slot, job.key)
            self._end(entry, error or (CANCELLED if entry.cancelled else DONE))
            await self._wake_all()

    async def halt(self, slot: str, job: Job, why: str) -> None:
        """A fault that is not the job's and would meet every other job too: all jobs end, and go on at the next
        start.
        """
        self._log("halt", slot, why)
        self.halted = self.halted or why
        self._entry(job).slot = None
        await self.interrupt()

    # Called by the driver.

    async def status(self) -> Status:
        """How things are; each event is told once."""
        events, self.events = self.events, []
        return Status(len(self.slots), self.halted, events)

    async def live(self) -> int:
        """How many slots are up."""
        return len(self.slots)

    async def placement_group(self, slot: str) -> Any:
        """The placement group of a slot, for the driver to remove when its Train controller died."""
        ranks = self.slots.get(slot, {})
        return next((process.placement_group for process in ranks.values()), None)

    async def need(self, slots: int) -> None:
        """The sweep can use this many slots; idle slots beyond them end, so that an autoscaler can take their
        machines.
        """
        self.needed = slots

    async def interrupt(self) -> None:
        """Every job ends at its next step; jobs submitted later end at once."""
        self.interrupted = True
        for key in list(self.jobs):
            await self.cancel(key)

    async def close(self) -> None:
        """No more jobs: each slot ends when it asks for its next."""
        self.closed = True
        await self._wake_all()

    # Inside.

    def _next(self, slot: str) -> Entry | None:
        """The next waiting job whose stage is not already being trained; jobs that the slot is warm for go first."""
        busy = {entry.job.stage for entry in self.jobs.values() if entry.slot}
        waiting = [entry for entry in self.jobs.values() if not entry.slot]
        free = [entry for entry in waiting if entry.job.stage is None or entry.job.stage not in busy]
        warm = (entry for entry in free if entry.job.warmth == self.warm.get(slot))
        return next(warm, free[0] if free else None)

    def _let_go(self, slot: str) -> bool:
        """Whether an idle slot is not needed any more; it is then forgotten."""
        idle = time.time() - self.idle_since.get(slot, math.inf) >= self.idle_seconds
        if self.needed is None or len(self.slots) <= self.needed or not idle:
            return False
        self._log("let go", slot, f"{self.needed} slots are enough")
        self._forget(slot)
        return True

    def _forget(self, slot: str) -> None:
        self.slots.pop(slot, None)
        self.idle_since.pop(slot, None)

    def _entry(self, job: Job) -> Entry:
        return self.jobs.get(job.key) or self.ended.get(job.key) or self.jobs.setdefault(job.key, Entry(job))

    def _run_by(self, slot: str) -> list[Entry]:
        return [entry for entry in self.jobs.values() if entry.slot == slot]

    def _end(self, entry: Entry, how: str) -> None:
        entry.end, entry.slot = how, None
        self.ended[entry.job.key] = self.jobs.pop(entry.job.key)

    def _requeue(self, entry: Entry, why: str) -> None:
        self._log("requeue", entry.slot or "", f"{entry.job.key}: {why}")
        entry.slot = None
        if entry.cancelled:
            self._end(entry, CANCELLED)
        elif entry.attempts >= ATTEMPTS:
            self._end(entry, f"gave up after {entry.attempts} attempts without progress: {why}")

    async def _watchdog(self) -> None:
        while not self.closed:
            await asyncio.sleep(1.0)
            for slot, ranks in list(self.slots.items()):
                await self._look_after(slot, ranks)
            # Run by a slot that this queue, restarted, has never seen: without this a sweep hung.
            for entry in [entry for entry in self.jobs.values() if entry.slot and entry.slot not in self.slots]:
                if self._is_silent(entry):
                    self._requeue(entry, "its slot is gone")
            await self._wake_all()

    async def _look_after(self, slot: str, ranks: dict[int, RankProcess]) -> None:
        """Forgets a slot that is dead or silent, and hands its job out again."""
        running = self._run_by(slot)
        dead = [rank for rank, process in list(ranks.items()) if await _dead(process.actor)]
        silent = any(self._is_silent(entry) for entry in running)
        if silent and not dead:
            self._log("kill", slot, f"silent for {self.patience_seconds:.0f} s")
            for process in ranks.values():
                ray.kill(process.actor)
        if silent or dead:
            self._forget(slot)
            if not running:
                await self._count_death(slot)
            for entry in running:
                self._requeue(entry, f"silent for {self.patience_seconds:.0f} s" if silent else "its worker died")

    async def _count_death(self, slot: str) -> None:
        """A worker died before it took a job, killed for memory more often than not; its successors do the same."""
        self.deaths[slot] = self.deaths.get(slot, 0) + 1
        self._log("died", slot, f"before it took a job, {self.deaths[slot]} of {MOST_DEATHS} times")
        if self.deaths[slot] >= MOST_DEATHS:
            self.halted = self.halted or (
                f"The workers of {slot} died {MOST_DEATHS} times in a row before they took a job: most likely their "
                "machine has no memory left for them. Ask for fewer at a time (--slots, --workers-per-trial) or take a "
                "larger machine, then run the same command again."
            )
            await self.interrupt()

    def _is_silent(self, entry: Entry) -> bool:
        return time.time() - entry.heard > self.patience_seconds

    async def _wake_all(self) -> None:
        async with self.change:
            self.change.notify_all()

    def _log(self, what: str, slot: str, detail: str) -> None:
        self.events.append(Event(time.time(), what, slot, detail))


async def _dead(actor: Any) -> bool:
    try:
        await asyncio.wait_for(actor.__ray_ready__.remote(), 2.0)
    except TimeoutError:
        return False  # busy, not dead: the heartbeat decides
    except ray.exceptions.RayActorError:
        return True
    return False
