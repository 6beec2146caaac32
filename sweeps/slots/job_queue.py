"""The job queue: between those who want results (the search, the confirmation) and the warm slots that work.

A slot belongs to no trial: whichever is free takes the next job. The queue keeps two jobs of one stage from running at
the same time, and watches over the slots: a silent one is killed and its job handed out again; one where job after job
fails is benched. It holds nothing that its callers cannot tell it again, so a restarted queue goes on. It knows nothing
of audio, Optuna or MLflow. Talk to it through `Jobs` in jobs.py.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from sweeps.slots.bench import Bench, Failed, Fault

# After a restart, wait for the slots to announce their jobs; otherwise a running job is handed out twice.
LISTEN_SECONDS = 3.0
# A shorter pause is no reason to give a machine back: the confirmation follows on the search within seconds.
IDLE_SECONDS = 60.0
ATTEMPTS = 3  # at a job, without progress, on slots that do well with others
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
    heard: float = 0.0  # on the monotonic clock, as all times but those of events
    untold_since: float = math.inf  # when a result of it began to wait for its follower
    results: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    end: str | None = None
    cancelled: bool = False
    failed_on: set[str] = field(default_factory=set)  # slots, since its last progress


@dataclass(frozen=True)
class Event:
    """What happened to a slot or a job, for people who ask why."""

    time: float
    what: str
    slot: str
    detail: str


@dataclass(frozen=True)
class Status:
    """How many slots are up and of use, why the queue halted if it did, the events since the last status, which slots
    are benched for what, and a number that grows with each sign of life of a job.
    """

    live: int
    halted: str | None
    events: list[Event]
    benched: dict[str, str]
    signs: int


@dataclass(frozen=True)
class RankProcess:
    """One rank of a slot: its actor and process."""

    actor: Any
    pid: int
    node: str = ""


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
        self.bench = Bench()
        self.nodes: dict[str, str] = {}  # where each slot has its first rank, or had it
        self.events: list[Event] = []
        self.closed = self.interrupted = False
        self.signs = 0
        self.halted: str | None = None
        self.change = asyncio.Condition()  # of results and ends
        self.offers = asyncio.Condition()  # of what a slot may take: many slots wait for it, and most changes are none
        self.born = time.monotonic()
        self.watch: asyncio.Task[None] | None = None

    # Called by those who want results.

    async def follow(self, job: Job, after: int) -> tuple[int, dict[str, Any] | None, str | None]:
        """The first result past step `after`, or how the job ended. An unknown job is submitted.

        By step and not by count: a restarted queue has lost the old results.
        """
        self.watch = self.watch or asyncio.create_task(self._watchdog())
        entry = self.jobs.get(job.key) or self.ended.get(job.key)
        if entry is None or (entry.end == CANCELLED and after < 0):  # by an earlier follower, which is no more
            entry = self.jobs[job.key] = Entry(job)
            self.signs += 1
            if self.interrupted:
                self._end(entry, CANCELLED)
            await self._wake(self.offers)
        entry.followed = max(entry.followed, after)
        await self._wake(self.change)
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
            await self._wake()

    # Called by the slots.

    async def join(self, slot: str, rank: int, process: RankProcess) -> None:
        """Each rank joins before each job, for the queue may have been restarted since."""
        known = self.slots.setdefault(slot, {}).get(rank)
        if known is None or known.pid != process.pid:
            self._log("join", slot, f"rank {rank} pid {process.pid}")
        if rank == 0 and self.nodes.get(slot) != process.node:
            self.nodes[slot] = process.node
            self.bench.clear(slot)
        self.slots[slot][rank] = process

    async def take(self, slot: str, wait_seconds: float = 10.0) -> Job | str | None:
        """The next job; None if there is none yet; CLOSED if there will be none or the slot is not needed any more.

        A benched slot waits in vain rather than ends: it keeps its place, where the next one would fail as well.
        """
        await asyncio.sleep(max(0.0, self.born + LISTEN_SECONDS - time.monotonic()))
        if self.bench.is_given_up(slot):
            return CLOSED
        for entry in self._run_by(slot):  # a slot that asks again has lost its job
            self._hand_on(entry, "its worker restarted")
        self.idle_since.setdefault(slot, time.monotonic())
        async with self.offers:
            try:
                await asyncio.wait_for(self.offers.wait_for(lambda: self.closed or self._next(slot)), wait_seconds)
            except TimeoutError:
                return CLOSED if self._let_go(slot) else None
            if self.closed or (taken := self._next(slot)) is None:
                return CLOSED if self.closed else None
            self.bench.took(slot)
            self.signs += 1
            self.idle_since.pop(slot, None)  # a dead worker's request may still be waiting beside its successor's
            taken.slot, taken.heard, taken.attempts = slot, time.monotonic(), taken.attempts + 1
            self.warm[slot] = taken.job.warmth
        self._log("take", slot, taken.job.key)
        return taken.job

    async def report(self, slot: str, job: Job, step: int, metrics: dict[str, Any] | None) -> bool:
        """A result, or a sign of life (metrics None). Returns whether to go on. A step reported twice counts once.

        A result waits until its predecessor was followed, that is, judged: a trial is never more than one step ahead
        of its search, and the last seconds of a killed driver's worker change nothing.
        """
        self.signs += 1
        entry = self._entry(job)
        entry.slot = entry.slot or slot
        if entry.slot != slot or entry.cancelled or entry.end is not None:
            return False
        if metrics is not None and step > entry.last_step:
            before, entry.last_step = entry.last_step, step
            entry.attempts = 1  # progress: the job was preempted, it is not poisonous
            entry.failed_on.clear()
            self.bench.clear(slot)
            entry.results.append((step, metrics))
            entry.heard, entry.untold_since = math.inf, time.monotonic()  # not silent: it waits for us
            await self._wake(self.change)
            async with self.change:
                await self.change.wait_for(lambda: entry.followed >= before or entry.cancelled or entry.end is not None)
            entry.untold_since = math.inf
        entry.heard = time.monotonic()
        return entry.slot == slot and not entry.cancelled and entry.end is None

    async def finish(self, slot: str, job: Job) -> None:
        """The slot is done with the job. One that the queue does not know is abandoned, or its results are lost with an
        earlier queue: whoever follows it has it run again.
        """
        entry = self.jobs.get(job.key)
        if entry is not None and entry.slot in (slot, None):
            self._log("finish", slot, job.key)
            self.bench.clear(slot)
            self._end(entry, CANCELLED if entry.cancelled else DONE)
            await self._wake()

    async def fail(self, slot: str, job: Job, fault: Fault, why: str) -> None:
        """The job did not end well on this slot, and whose fault it was says what ends: the job, or all jobs, which go
        on at the next start; or nothing, and another slot takes it. Each rank may say so; the first one is heard.
        """
        entry = self._entry(job)
        if fault is Fault.NODE:
            elsewhere = any(self.nodes.get(other) != self.nodes.get(slot) for other in self._useful())
            fault = Fault.SLOT if elsewhere else Fault.STORAGE
        if fault is Fault.STORAGE:
            self._log("halt", slot, why)
            self.halted = self.halted or why
            entry.slot = None
            await self.interrupt()
        elif entry.slot not in (slot, None) or entry.end is not None:
            return
        elif fault is Fault.RECIPE or (
            fault is Fault.UNCLEAR and (entry.failed_on - {slot} or not self._untried(slot, entry))
        ):
            self._log("finish", slot, job.key)
            self.bench.acquit(job.key)
            self._end(entry, CANCELLED if entry.cancelled else why)
        elif entry.slot == slot:
            self._hand_on(entry, why, certain=fault is Fault.SLOT)
        await self._wake()

    # Called by the driver.

    async def status(self) -> Status:
        """How things are; each event is told once."""
        events, self.events = self.events, []
        return Status(len(self._useful()), self.halted, events, self.bench.reasons(), self.signs)

    async def live(self) -> int:
        """How many slots are up and of use."""
        return len(self._useful())

    async def is_given_up(self, slot: str) -> bool:
        """Whether no worker of the slot ever lived long enough, so that it is not worth a new one."""
        return self.bench.is_given_up(slot)

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
        await self._wake()

    # Inside.

    def _next(self, slot: str) -> Entry | None:
        """The next waiting job whose stage is not already being trained; jobs that the slot is warm for go first. One
        that failed here is left to a slot that has not tried it.
        """
        waiting = [entry for entry in self.jobs.values() if not entry.slot]
        if not waiting or self.bench.holds(slot):
            return None
        busy = {entry.job.stage for entry in self.jobs.values() if entry.slot}
        free = [entry for entry in waiting if entry.job.stage is None or entry.job.stage not in busy]
        free = [entry for entry in free if slot not in entry.failed_on or not self._untried(slot, entry)]
        warm = (entry for entry in free if entry.job.warmth == self.warm.get(slot))
        return next(warm, free[0] if free else None)

    def _let_go(self, slot: str) -> bool:
        """Whether an idle slot is not needed any more; it is then forgotten."""
        idle = time.monotonic() - self.idle_since.get(slot, math.inf) >= self.idle_seconds
        if self.needed is None or len(self._useful()) <= self.needed or not idle or self.bench.holds(slot):
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

    def _useful(self) -> set[str]:
        """The slots that are up and not benched."""
        return {slot for slot in self.slots if not self.bench.holds(slot)}

    def _untried(self, slot: str, entry: Entry) -> set[str]:
        """The other slots that have not failed with the job."""
        return self._useful() - entry.failed_on - {slot}

    def _hand_on(self, entry: Entry, why: str, *, certain: bool = False) -> None:
        """The job goes to another slot, if there is one, at the cost of this one until the job itself is to blame."""
        slot, key, entry.slot = entry.slot or "", entry.job.key, None
        self._log("requeue", slot, f"{key}: {why}")
        entry.failed_on.add(slot)
        if entry.cancelled:
            self._end(entry, CANCELLED)
        elif self.bench.failed(slot, Failed(key, why, certain)):
            self._log("bench", slot, why)
            for failure in self.bench.rows[slot]:
                if (blamed := self.jobs.get(failure.key)) is not None:
                    blamed.attempts -= 1
        elif entry.attempts >= (2 * len(self.slots) + 1 if certain else ATTEMPTS):  # every slot could be benched by now
            self.bench.acquit(key)
            self._end(entry, f"gave up after {entry.attempts} attempts without progress: {why}")

    async def _watchdog(self) -> None:
        while not self.closed:
            await asyncio.sleep(1.0)
            for slot, ranks in list(self.slots.items()):
                await self._look_after(slot, ranks)
            # Run by a slot that this queue, restarted, has never seen: without this a sweep hung.
            for entry in [entry for entry in self.jobs.values() if entry.slot and entry.slot not in self.slots]:
                if self._is_silent(entry):
                    self._hand_on(entry, "its slot is gone")
            for entry in list(self.jobs.values()):
                self._forget_if_abandoned(entry)
            await self._wake()

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
            if not running and self.bench.died(slot):
                self._log("bench", slot, self.bench.reasons()[slot])
            for entry in running:
                self._hand_on(entry, f"silent for {self.patience_seconds:.0f} s" if silent else "its worker died")

    def _forget_if_abandoned(self, entry: Entry) -> None:
        """A job whose follower died would keep its slot for ever. Who follows it again submits it again, and it goes
        on from its checkpoint.
        """
        if time.monotonic() - entry.untold_since > self.patience_seconds:
            self._log("abandoned", entry.slot or "", f"{entry.job.key}: nobody follows it")
            entry.end, entry.slot = CANCELLED, None
            del self.jobs[entry.job.key]

    def _is_silent(self, entry: Entry) -> bool:
        return time.monotonic() - entry.heard > self.patience_seconds

    async def _wake(self, *waiting: asyncio.Condition) -> None:
        """Those who wait; of both kinds if none is named."""
        for one in waiting or (self.offers, self.change):
            async with one:
                one.notify_all()

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
