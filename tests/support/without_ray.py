"""Without Ray: a driver whose processes of Ray are threads, so that a hundred sweeps can be disturbed in minutes.

Everything else is the sweep's own: queue, client, pool, worker loop, supervisor, search, trials, journal, databases,
files. In Ray's place stands the little of it that these call. An actor is an event loop of its own, which may be
killed and started again; a worker is a thread, which may die in the middle of a trial; Tune is a loop around the
searcher, the scheduler and the callback that Tune is given.
"""

import asyncio
import itertools
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import without_ray
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils.util import flatten_dict

from audioconfit.training import Diverged
from sweeps.cluster import capacity, joining, warm_slots
from sweeps.search import tuning
from sweeps.search.studies import Studies
from sweeps.search.trainable import Trial
from sweeps.slots import job_queue, leftovers, pool, supervisor, worker
from sweeps.slots import jobs as client
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool
from sweeps.slots.slot import Slot, Tell, place
from sweeps.trial import work as trials
from sweeps.trial.assignment import Assignment

HERE = threading.local()  # of a worker's thread: its `actor`
QUEUES: list["Actor"] = []  # of this process


class Died(BaseException):
    """A worker's process is gone, as far as its thread can be: nothing of ours catches it."""


class Actor:
    """An asynchronous actor: its methods run in a loop of its own, and are called again where it was restarted."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make, self.inner = make, make()
        self.running: set[asyncio.Task[Any]] = set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *words: self._call(name, words))

    def restart(self) -> None:
        """kill -9 of its process, which Ray starts again."""
        self.loop.call_soon_threadsafe(self._restart)

    def _restart(self) -> None:
        doomed, self.inner = self.inner, self.make()
        for task in (*self.running, *filter(None, [doomed.watch])):
            task.cancel()

    def _call(self, name: str, words: tuple[Any, ...]) -> Any:
        if self.is_dead:
            raise ray.exceptions.RayActorError
        return asyncio.run_coroutine_threadsafe(self._answer(name, words), self.loop)

    async def _answer(self, name: str, words: tuple[Any, ...]) -> Any:
        while True:
            inner = self.inner
            task = asyncio.ensure_future(getattr(inner, name)(*words))
            self.running.add(task)
            try:
                return await task
            except asyncio.CancelledError:
                if inner is self.inner:
                    raise
            finally:
                self.running.discard(task)


@dataclass
class Process:
    """A worker's actor, as the queue's watchdog sees it."""

    is_dead: bool = False

    @property
    def __ray_ready__(self) -> Any:
        return SimpleNamespace(remote=self._ready)

    async def _ready(self) -> None:
        if self.is_dead:
            raise ray.exceptions.RayActorError


def _get(future: Any, timeout: float | None = None) -> Any:
    try:
        return future.result(timeout)
    except TimeoutError:
        raise ray.exceptions.GetTimeoutError from None


def _kill(actor: Any) -> None:
    actor.is_dead = True


def _remote(kind: type[Any]) -> Any:
    def start(*words: Any) -> Actor:
        QUEUES.append(Actor(lambda: kind(*words)))
        return QUEUES[-1]

    return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))


def _control() -> str:
    """The address of something that answers, as Ray's control process does."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            listening.accept()[0].close()

    threading.Thread(target=answer, daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


class Run:
    """A Train run of one worker, which is replaced as often as it dies."""

    def __init__(self, slot: Slot, closing: threading.Event) -> None:
        self.slot, self.closing = slot, closing

    def fit(self) -> None:
        while not self.closing.is_set():
            HERE.actor = Process()
            try:
                return worker.serve(self.slot)
            except (Died, Exception):
                HERE.actor.is_dead = True
                self.closing.wait(_pause())


class Threads(Pool):
    """The pool, whose Train runs are threads."""

    def _trainer(self, name: str) -> Any:
        return Run(Slot(self.jobs, name, place(self.work), pool.RECYCLE_AFTER), self.closing)


def _pause() -> float:
    """Until a dead worker's successor serves: shorter or longer than the watchdog takes to see that it is dead."""
    return 0.1 if os.getpid() % 2 else 1.5


def search(
    studies: Studies, record: tuning.Record, jobs: Jobs, *, slots: int, storage: Path, halt: Callable[[str], None]
) -> None:
    """What Tune does with the searcher, the scheduler, the callback and the trainable that it is given."""
    searcher = tuning.StudySearcher(studies, tuning._Cached(jobs.live_slots), halt)
    scheduler = tuning.StudyStopping(studies, halt, slots=0)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    running: dict[str, Any] = {}

    def step(one: Any) -> None:
        def ask() -> None:
            try:
                answers.put((one, one.proxy.step()))
            except BaseException as error:  # raised where the answer is read
                answers.put((one, error))

        threading.Thread(target=ask, daemon=True).start()

    for number in itertools.count():
        config = searcher.suggest(f"{number}") if len(running) < slots else None
        if isinstance(config, dict):
            one = SimpleNamespace(trial_id=f"{number}", config=config, proxy=Trial.__new__(Trial), last_result={})
            one.proxy.setup(config, jobs)
            running[one.trial_id] = one
            record.on_trial_start(0, [], one)
            step(one)
            continue
        if not running:
            if config == Searcher.FINISHED:
                return
            time.sleep(0.02)
            continue
        try:
            one, result = answers.get(timeout=0.2)
        except queue.Empty:
            continue
        if isinstance(result, BaseException):
            raise result
        if _judged(one, result, searcher, scheduler, record):
            step(one)
        else:
            del running[one.trial_id]


def _judged(one: Any, result: dict[str, Any], searcher: Any, scheduler: Any, record: tuning.Record) -> bool:
    """Whether the trial goes on."""
    flat, goes_on = flatten_dict(result), not result.get("done")
    if goes_on:
        goes_on = scheduler.on_trial_result(None, one, flat) != TrialScheduler.STOP
    if not goes_on:
        searcher.on_trial_complete(one.trial_id, flat)
    record.on_trial_result(0, [], one, result)
    one.last_result = result
    if not goes_on:
        record.on_trial_complete(0, [], one)
        one.proxy.cleanup()
    return goes_on


# Faults of the driver's own processes.


@dataclass
class Fault:
    """What happens as a worker tells its number `at` of this start: see `_strike`."""

    what: str = ""
    at: int = -1
    told: int = field(default=0)


FAULT = Fault()
HONEST = trials.work


def work(assignment: Assignment, tell: Tell) -> None:
    """A trial as always, but for the fault."""

    def telling(step: int, metrics: dict[str, Any] | None) -> bool:
        FAULT.told += 1
        if FAULT.told >= FAULT.at and FAULT.what:
            _strike(assignment)
        return tell(step, metrics)

    HONEST(assignment, telling)


def _strike(assignment: Assignment) -> None:
    what = FAULT.what
    if what != "node":  # a node lacks it for all jobs
        FAULT.what = ""
    match what:
        case "death":
            raise Died
        case "queue":
            QUEUES[-1].restart()
        case "node":
            raise ModuleNotFoundError("No module named 'torchcodec'")
        case "unclear":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case "storage":
            raise PermissionError(13, "Permission denied", str(assignment.folder / "result.json"))
        case "recipe":
            raise Diverged(1, 2, float("nan"))


def replace(what: str = "", at: int = -1, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """From now on this process' sweeps run without Ray, or for as long as `put` holds; `what` happens at the time `at`
    that a worker tells something.
    """
    FAULT.what, FAULT.at, FAULT.told = what, at, 0
    address = _control()
    stand_in = SimpleNamespace(
        get=_get,
        kill=_kill,
        remote=_remote,
        exceptions=ray.exceptions,
        get_runtime_context=lambda: SimpleNamespace(current_actor=getattr(HERE, "actor", None), gcs_address=address),
    )
    place = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    replaced: list[tuple[Any, str, Any]] = [
        *((module, "ray", stand_in) for module in (job_queue, client, supervisor, worker)),
        (worker, "train", SimpleNamespace(get_context=lambda: place)),
        (leftovers, "remove", lambda: None),
        (warm_slots, "Pool", Threads),
        (joining, "join", lambda cpus=None: nullcontext()),
        (capacity, "fitting_shape", lambda request: request.shape(has_gpus=False)),
        (capacity, "describe", str),
        (tuning, "run", search),
        (trials, "work", without_ray.work),  # by its name, as a worker would import it
        (job_queue, "LISTEN_SECONDS", 0.2),
        (supervisor, "LOOK_SECONDS", 0.2),
    ]
    for module, name, stand_in in replaced:
        put(module, name, stand_in)
