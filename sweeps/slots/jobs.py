"""Jobs: how everybody talks to the job queue. `for update in jobs.results(job)` submits a job and follows it.

Imports no torch, so that Tune's trial actors start within a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

from sweeps.slots.bench import Fault
from sweeps.slots.job_queue import CANCELLED, IDLE_SECONDS, Job, JobQueue, RankProcess, Status

ANSWER_SECONDS = 30.0  # of the queue, which answers in milliseconds, but is started again where it was killed


@dataclass(frozen=True)
class Update:
    """One result of a job. `metrics` holds "ended" with the last one."""

    step: int
    metrics: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return bool(self.metrics.get("ended"))


class JobStopped(Exception):  # noqa: N818  (what happened, not what kind of thing it is)
    """A job ended without its last result: it failed, or it was cancelled."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    @property
    def was_cancelled(self) -> bool:
        return self.why == CANCELLED


@dataclass(frozen=True)
class Jobs:
    """The queue's client: owns the handle of its actor, and travels to workers."""

    actor: Any

    @classmethod
    def start(cls, *, patience_seconds: float = 600.0, idle_seconds: float = IDLE_SECONDS) -> "Jobs":
        """A queue as an actor that Ray restarts as often as needed. It takes no CPU, and lives on the head, not on a
        worker that may be reclaimed.
        """
        actor: Any = ray.remote(JobQueue)
        options = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
        options |= {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 1000}
        return cls(actor.options(**options).remote(patience_seconds, idle_seconds))

    # For those who want results.

    def results(self, job: Job) -> Iterator[Update]:
        """Each result of the job as it comes, up to the last. An unknown job is submitted.

        Raises:
            JobStopped: it failed or was cancelled.
        """
        step = -1
        while True:
            step, metrics, end = ray.get(self.actor.follow.remote(job, step))
            if metrics is None:
                raise JobStopped(end)
            update = Update(step, metrics)
            yield update
            if update.is_last:
                return

    def cancel(self, key: str) -> None:
        """Ends the job at its next step."""
        ray.get(self.actor.cancel.remote(key))

    # For the slots.

    def join(self, slot: str, rank: int, process: RankProcess) -> None:
        """Announces one rank of a slot."""
        ray.get(self.actor.join.remote(slot, rank, process))

    def take(self, slot: str) -> Job | str | None:
        """The slot's next job; None: ask again; CLOSED: end."""
        taken: Job | str | None = ray.get(self.actor.take.remote(slot))
        return taken

    def report(self, slot: str, job: Job, step: int, metrics: dict[str, Any] | None) -> bool:
        """A result, or a sign of life (metrics None). Returns whether to go on."""
        return bool(ray.get(self.actor.report.remote(slot, job, step, metrics)))

    def finish(self, slot: str, job: Job) -> None:
        """The slot is done with the job."""
        ray.get(self.actor.finish.remote(slot, job))

    def fail(self, slot: str, job: Job, fault: Fault, why: str) -> None:
        """The job did not end well on this slot. By whose fault it was, it ends, is handed on, or all jobs end."""
        ray.get(self.actor.fail.remote(slot, job, fault, why))

    # For the driver.

    def live_slots(self) -> int:
        """How many slots are up."""
        return int(ray.get(self.actor.live.remote()))

    def status(self) -> Status:
        """How things are.

        Raises:
            ray.exceptions.GetTimeoutError: the queue does not answer.
        """
        status: Status = ray.get(self.actor.status.remote(), timeout=ANSWER_SECONDS)
        return status

    def is_given_up(self, slot: str) -> bool:
        """Whether the slot is not worth a new worker."""
        return bool(ray.get(self.actor.is_given_up.remote(slot)))

    def need(self, slots: int) -> None:
        """How many slots the sweep can use by now."""
        ray.get(self.actor.need.remote(slots))

    def interrupt(self) -> None:
        """Ends all jobs at their next step."""
        ray.get(self.actor.interrupt.remote())

    def close(self) -> None:
        """Lets the slots end."""
        ray.get(self.actor.close.remote())

    def end(self) -> None:
        """Ends the queue itself, which a cluster or a notebook would keep after the sweep."""
        ray.kill(self.actor)
