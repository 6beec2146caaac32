"""Warm slots of one sweep: Ray, the job queue, the pool and its supervisor, started together when there is work, or
ahead of it while the driver does something else.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from ray.exceptions import RayError, RayTaskError

from sweeps.cluster import capacity, joining
from sweeps.cluster.capacity import SlotRequest
from sweeps.faults import Halted
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool, SlotShape
from sweeps.slots.slot import Work
from sweeps.slots.supervisor import Supervisor

_left_open: list[ExitStack] = []  # until the process ends: what nobody holds any more would be closed at once

MARGIN_SECONDS = 120.0  # a job may be silent for the patience, then its slot is killed and started again


@dataclass
class WarmSlots:
    """A context manager that owns the slots. They start with the first `serve`, or ahead of it with `warm_up`, and end
    with the block.

    Args:
        work: what a slot does with an assignment, or its "module:name".
        folder: of the sweep, for Train's files and the log of the queue's events.
        patience_seconds: of silence, after which a worker counts as hung.
        wait_seconds: without any live slot, after which the sweep halts.
        started: called with the shape of a slot before the first job.
        halt: called with the reason when the sweep cannot go on.
        leave: called with it when the driver hangs after that.
        ends_with_process: Ray is left to the end of the process where nobody has ever served the slots.
    """

    request: SlotRequest
    work: Work | str
    folder: Path
    patience_seconds: float
    wait_seconds: float
    started: Callable[[SlotShape], None] = lambda shape: None
    halt: Callable[[str], None] = lambda why: None
    leave: Callable[[str], None] = lambda why: None
    ends_with_process: bool = False
    _jobs: Jobs | None = None  # of those who serve
    _pool: Pool | None = None
    _waiting: Callable[[], int] | None = None
    _interrupted: bool = False
    _open: ExitStack = field(default_factory=ExitStack)

    def serve(self, waiting: Callable[[], int]) -> Jobs:
        """The job queue, with slots behind it. `waiting`: how many jobs the slots can still be used for."""
        self._waiting = waiting
        return self._jobs or self._start()

    def warm_up(self, jobs: int) -> Pool:
        """Ray, the queue and as many slots as so many jobs can use, which come up while the driver does other work.

        Raises:
            Halted: Ray does not start, or no slot can ever start here.
        """
        self._open.enter_context(joining.join(self.request.embedded_cpus()))
        shape = capacity.fitting_shape(self.request)
        queue = Jobs.start(patience_seconds=self.patience_seconds)
        self._open.callback(queue.end)
        slots = capacity.slot_count(self.request, shape, jobs)
        pool = self._pool = Pool(queue, self.work, slots=slots, shape=shape, storage=self.folder / "train")
        self._open.callback(pool.closing.set)
        return pool

    def rest(self) -> None:
        """Nobody waits for the slots just now; they stay warm."""
        self._waiting = None

    def most_trials(self, remaining: int) -> int:
        """How many of the remaining trials can ever run at the same time."""
        assert self._pool is not None, "the slots have not started"
        return remaining if capacity.can_grow(self.request) else len(self._pool.threads)

    def interrupt(self) -> None:
        """Ends all jobs at their next step, also those that are submitted while the slots still start."""
        self._interrupted = True
        if self._jobs is not None:
            self._jobs.interrupt()

    def __enter__(self) -> "WarmSlots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ends_with_process and self._pool is not None and self._jobs is None:
            # Its threads are in the middle of Ray's calls, which end the process, with 1, when Ray ends under them.
            self._pool.closing.set()
            _left_open.append(self._open.pop_all())
        with suppress(RayError):  # a dead one has nothing that is not on the disk, too
            self._open.close()
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Halted(f"Ray is gone ({why}). Run the same command again: what is done is kept.") from error

    def _start(self) -> Jobs:
        pool = self._pool or self.warm_up(self._waiting() if self._waiting else 1)
        self.started(pool.shape)

        def count() -> int:
            return capacity.slot_count(self.request, pool.shape, self._waiting() if self._waiting else 1)

        pool.grow(count())
        jobs = self._jobs = pool.jobs
        if self._interrupted:
            jobs.interrupt()
        self._open.callback(pool.close)
        supervisor = Supervisor(
            jobs,
            pool,
            log=self.folder / "slots.log",
            wait_seconds=self.wait_seconds,
            still_seconds=self.patience_seconds + MARGIN_SECONDS,
            waiting=lambda: self._waiting() if self._waiting else 0,
            room=count if capacity.can_grow(self.request) else None,
            resources=lambda: capacity.describe(pool.shape),
            halt=self.halt,
            leave=self.leave,
        )
        self._open.callback(supervisor.close)
        return jobs
