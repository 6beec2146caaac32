"""The hub: one queue of jobs between those who want results (Tune's proxies, the confirmation) and the warm slots that
work.

A slot belongs to no trial: whichever is free takes the next job. The hub also is the single-flight rule of stage 1 (two
jobs of one stage never run at the same time) and the watchdog (a silent slot is killed, its job handed out again). It
holds no state that its callers cannot tell it again, so a restarted hub goes on. It knows nothing of audio, Optuna or
MLflow.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any

import ray

# A restarted hub first listens who is running what; a slot that asks earlier would get a job that another still runs.
LISTEN_SECONDS = 3.0
# Less is no reason to give a machine back: the confirmation follows on the search within seconds.
IDLE_SECONDS = 60.0
CLOSED, CANCELLED = "closed", "cancelled"


@dataclass
class Job:
    """One piece of work. `stage`: two jobs of one stage never run together. `warmth`: what a slot must load for it."""

    key: str
    work: bytes
    stage: str | None = None
    warmth: str | None = None
    slot: str | None = None
    attempts: int = 0
    last_step: int = -1
    followed: int = -1
    heard: float = 0.0
    results: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    end: str | None = None
    cancelled: bool = False


@dataclass(frozen=True)
class Sight:
    """What a look at the hub shows: how many slots are up, why it halted if it did, what happened since the last
    look.
    """

    live: int
    halted: str | None
    events: list[tuple[float, str, str, str]]


@dataclass(frozen=True)
class Order:
    """A job as it travels: enough for a restarted hub to learn it again. Only the slot opens the pickled work."""

    key: str
    work: bytes
    stage: str | None = None
    warmth: str | None = None

    def job(self) -> Job:
        return Job(self.key, self.work, self.stage, self.warmth)


@dataclass(frozen=True)
class Place:
    """One rank of a slot: its actor and process, and the placement group that a dead Train controller would leave
    behind.
    """

    actor: Any
    pid: int
    group: Any


class Hub:
    """The queue itself; `start` makes an actor of it."""

    def __init__(self, patience_seconds: float = 600.0, attempts: int = 3, idle_seconds: float = IDLE_SECONDS) -> None:
        self.patience_seconds, self.attempts, self.idle_seconds = patience_seconds, attempts, idle_seconds
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, Job] = {}
        self.slots: dict[str, dict[int, Place]] = {}
        self.warm: dict[str, str | None] = {}
        self.idle_since: dict[str, float] = {}
        self.enough: int | None = None  # so many slots; None: all that there are
        self.events: list[tuple[float, str, str, str]] = []
        self.closed = self.interrupted = False
        self.halted: str | None = None
        self.change = asyncio.Condition()
        self.born = time.time()
        self.watch: asyncio.Task[None] | None = None

    # For those who want results.

    async def follow(self, order: Order, after: int) -> tuple[int, dict[str, Any] | None, str | None]:
        """The first result past step `after`, or how the job ended. An unknown job is submitted.

        By step and not by count: a restarted hub has lost the old results.
        """
        self.watch = self.watch or asyncio.create_task(self._watchdog())
        job = self.jobs.get(order.key) or self.ended.get(order.key)
        if job is None:
            job = self.jobs[order.key] = order.job()
            if self.interrupted:
                self._end(job, CANCELLED)
        job.followed = max(job.followed, after)
        await self._tell_all()
        async with self.change:
            await self.change.wait_for(lambda: job.last_step > after or job.end is not None)
        for step, metrics in job.results:
            if step > after:
                return step, metrics, None
        return after, None, job.end

    async def cancel(self, key: str) -> None:
        """The job ends at its next step, on all its ranks; one that nobody runs ends now."""
        if (job := self.jobs.get(key)) is not None:
            job.cancelled = True
            if job.slot is None:
                self._end(job, CANCELLED)
            await self._tell_all()

    # For the slots.

    async def join(self, slot: str, rank: int, place: Place) -> None:
        """Each rank says so before each job, for the hub may have been restarted since."""
        known = self.slots.setdefault(slot, {}).get(rank)
        if known is None or known.pid != place.pid:
            self._log("join", slot, f"rank {rank} pid {place.pid}")
        self.slots[slot][rank] = place

    async def take(self, slot: str, wait_seconds: float = 10.0) -> Order | str | None:
        """The next job; None if there is none yet; CLOSED if there will be none, or if the slot is one too many."""
        await asyncio.sleep(max(0.0, self.born + LISTEN_SECONDS - time.time()))
        for job in self._held_by(slot):  # a slot that asks again has lost what it held
            self._requeue(job, "its worker restarted")
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
            self.idle_since.pop(slot, None)  # a dead worker's question may still be waiting beside its successor's
            taken.slot, taken.heard, taken.attempts = slot, time.time(), taken.attempts + 1
            self.warm[slot] = taken.warmth
        self._log("take", slot, taken.key)
        return Order(taken.key, taken.work, taken.stage, taken.warmth)

    async def report(self, slot: str, order: Order, step: int, metrics: dict[str, Any] | None) -> bool:
        """A result, or a sign of life (metrics None). Returns whether to go on. A step told twice counts once.

        A result waits until the one before it was followed, that is, weighed: a trial is never further ahead of its
        search than one step, and the last seconds of a killed driver's worker change nothing.
        """
        job = self._known(order)
        job.slot = job.slot or slot
        if job.slot != slot or job.cancelled or job.end is not None:
            return False
        if metrics is not None and step > job.last_step:
            before, job.last_step, job.attempts = job.last_step, step, 1  # progress: no poisonous job, a preempted one
            job.results.append((step, metrics))
            job.heard = math.inf  # not silent: it waits for us
            await self._tell_all()
            async with self.change:
                await self.change.wait_for(lambda: job.followed >= before or job.cancelled or job.end is not None)
        job.heard = time.time()
        return job.slot == slot and not job.cancelled and job.end is None

    async def finish(self, slot: str, order: Order, error: str | None = None) -> None:
        """The slot is done with the job. An error here is the job's own: it is not tried again."""
        job = self._known(order)
        if job.slot in (slot, None) and job.end is None:
            self._log("finish", slot, job.key)
            self._end(job, error or (CANCELLED if job.cancelled else "done"))
            await self._tell_all()

    async def halt(self, slot: str, order: Order, why: str) -> None:
        """Something that is not the job's fault and that no other job would escape: all of them end, to go on at the
        next start.
        """
        self._log("halt", slot, why)
        self.halted = self.halted or why
        self._known(order).slot = None
        await self.interrupt()

    # For the driver.

    async def look(self) -> Sight:
        """How things are."""
        events, self.events = self.events, []
        return Sight(len(self.slots), self.halted, events)

    async def live(self) -> int:
        """How many slots are up."""
        return len(self.slots)

    async def group(self, slot: str) -> Any:
        """The placement group of a slot, for the driver to remove when its Train controller died."""
        ranks = self.slots.get(slot, {})
        return next((place.group for place in ranks.values()), None)

    async def need(self, slots: int) -> None:
        """So many slots are enough: of those beyond, the idle ones end, for an autoscaler to take their machines."""
        self.enough = slots

    async def interrupt(self) -> None:
        """Every job ends at its next step; what was submitted later ends at once."""
        self.interrupted = True
        for key in list(self.jobs):
            await self.cancel(key)

    async def close(self) -> None:
        """No more jobs: slots end when they ask next."""
        self.closed = True
        await self._tell_all()

    # Inside.

    def _next(self, slot: str) -> Job | None:
        """A free job whose stage nobody is at; one that the slot is warm for goes first."""
        busy = {job.stage for job in self.jobs.values() if job.slot}
        free = [job for job in self.jobs.values() if not job.slot and (job.stage is None or job.stage not in busy)]
        return next((job for job in free if job.warmth == self.warm.get(slot)), free[0] if free else None)

    def _let_go(self, slot: str) -> bool:
        """Whether an idle slot is one too many; it is then forgotten."""
        idle = time.time() - self.idle_since.get(slot, math.inf) >= self.idle_seconds
        if self.enough is None or len(self.slots) <= self.enough or not idle:
            return False
        self._log("let go", slot, f"{self.enough} slots are enough")
        self._forget(slot)
        return True

    def _forget(self, slot: str) -> None:
        self.slots.pop(slot, None)
        self.idle_since.pop(slot, None)

    def _known(self, order: Order) -> Job:
        return self.jobs.get(order.key) or self.ended.get(order.key) or self.jobs.setdefault(order.key, order.job())

    def _held_by(self, slot: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.slot == slot]

    def _end(self, job: Job, how: str) -> None:
        job.end, job.slot = how, None
        self.ended[job.key] = self.jobs.pop(job.key)

    def _requeue(self, job: Job, why: str) -> None:
        self._log("requeue", job.slot or "", f"{job.key}: {why}")
        job.slot = None
        if job.cancelled:
            self._end(job, CANCELLED)
        elif job.attempts >= self.attempts:
            self._end(job, f"gave up after {job.attempts} attempts without progress: {why}")

    async def _watchdog(self) -> None:
        while not self.closed:
            await asyncio.sleep(1.0)
            for slot, ranks in list(self.slots.items()):
                held = self._held_by(slot)
                dead = [rank for rank, place in list(ranks.items()) if await _dead(place.actor)]
                silent = any(time.time() - job.heard > self.patience_seconds for job in held)
                if silent and not dead:
                    self._log("kill", slot, f"silent for {self.patience_seconds:.0f} s")
                    for place in ranks.values():
                        ray.kill(place.actor)
                if silent or dead:
                    self._forget(slot)
                    for job in held:
                        why = f"silent for {self.patience_seconds:.0f} s" if silent else "its worker died"
                        self._requeue(job, why)
            # Held by a slot that this hub, restarted, has never seen: without this a sweep hung.
            for job in [job for job in self.jobs.values() if job.slot and job.slot not in self.slots]:
                if time.time() - job.heard > self.patience_seconds:
                    self._requeue(job, "its slot is gone")
            await self._tell_all()

    async def _tell_all(self) -> None:
        async with self.change:
            self.change.notify_all()

    def _log(self, what: str, slot: str, detail: str) -> None:
        self.events.append((time.time(), what, slot, detail))


async def _dead(actor: Any) -> bool:
    try:
        await asyncio.wait_for(actor.__ray_ready__.remote(), 2.0)
    except TimeoutError:
        return False  # busy, not dead: the heartbeat decides
    except ray.exceptions.RayActorError:
        return True
    return False


def start(*, patience_seconds: float = 600.0, attempts: int = 3, idle_seconds: float = IDLE_SECONDS) -> Any:
    """The hub as an actor that Ray restarts as often as needed. It takes no CPU, and lives on the head, not on a worker
    that may be reclaimed.
    """
    actor: Any = ray.remote(Hub)
    options = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    options |= {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 1000}
    return actor.options(**options).remote(patience_seconds, attempts, idle_seconds)


def interrupt(hub: Any) -> None:
    """Ends all jobs at their next step and waits until the hub has heard it."""
    ray.get(hub.interrupt.remote())
