"""Slots and their queue on a real Ray: jobs are served, fail alone, outlive workers, never run twice at a time."""

import asyncio
import pickle
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import toys

from audioconfit.training import Diverged
from sweeps.slots import supervisor
from sweeps.slots.bench import MOST_DEATHS
from sweeps.slots.job_queue import CANCELLED, Job, JobQueue, RankProcess
from sweeps.slots.jobs import Jobs, JobStopped
from sweeps.slots.pool import Pool, SlotShape
from sweeps.slots.supervisor import Supervisor

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def pool(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A job queue with one warm slot."""
    made = Pool(
        Jobs.start(patience_seconds=8.0),
        toys.work,
        slots=1,
        shape=SlotShape(),
        storage=tmp_path_factory.mktemp("train"),
    )
    yield made
    made.close()


@pytest.fixture
def service(pool: Pool) -> Jobs:
    """Its queue."""
    return pool.jobs


@contextmanager
def supervised(pool: Pool, folder: Path, **how: Any) -> Iterator[tuple[Supervisor, "queue.Queue[str]"]]:
    """The block runs under a supervisor; it, and why it halted."""
    said: queue.Queue[str] = queue.Queue()
    usual = {"log": folder / "log", "wait_seconds": 600.0, "still_seconds": 600.0, "waiting": lambda: 1, "room": None}
    usual |= {"resources": str, "halt": said.put, "leave": lambda why: said.put(f"left: {why}")}
    watching = Supervisor(pool.jobs, pool, **usual | how)
    try:
        yield watching, said
    finally:
        watching.close()


def test_a_queue_in_which_nothing_moves_halts_but_not_one_that_nobody_waits_for(pool: Pool, tmp_path: Path) -> None:
    results(pool.jobs, "so that the slot is up")
    with supervised(pool, tmp_path, still_seconds=2.0, waiting=lambda: 0) as (_, said), pytest.raises(queue.Empty):
        said.get(timeout=5.0)
    with supervised(pool, tmp_path, still_seconds=2.0) as (_, said):
        assert "Nothing has moved for" in said.get(timeout=60.0)


def test_a_ray_that_is_gone_is_said_within_seconds_and_a_driver_that_hangs_is_left(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "END_SECONDS", 0.5)
    with supervised(pool, tmp_path) as (watching, said):
        watching.control = "127.0.0.1:1"  # where nobody listens
        assert "Ray is gone: its control process at 127.0.0.1:1" in said.get(timeout=30.0)
        assert said.get(timeout=10.0).startswith("left: Ray is gone")


def results(jobs: Jobs, key: str, **task: Any) -> tuple[list[dict[str, Any]], str | None]:
    """All results of a job, and how it ended if it did not end well."""
    told: list[dict[str, Any]] = []
    try:
        for update in jobs.results(Job(key, pickle.dumps(task), stage=task.get("stage"))):
            told.append(update.metrics)
    except JobStopped as stopped:
        return told, stopped.why
    return told, None


def test_a_job_tells_each_step_once_and_ends(service: Jobs) -> None:
    told, end = results(service, "plain", steps=3)
    assert [metrics["epoch"] for metrics in told] == [1, 2, 3, 4]
    assert end is None


def test_the_next_job_runs_in_the_same_process(service: Jobs) -> None:
    first, _ = results(service, "first")
    began = time.monotonic()
    second, _ = results(service, "second")
    assert first[-1]["pid"] == second[-1]["pid"]
    assert time.monotonic() - began < 2.0  # not a new process, which takes 4 s at least


def test_a_failing_job_fails_alone(service: Jobs) -> None:
    told, end = results(service, "broken", raise_at=2)
    assert len(told) == 1
    assert end == "ValueError: this toy is broken"
    assert results(service, "after the broken one")[1] is None


def test_after_an_error_that_explains_itself_the_process_goes_on(service: Jobs) -> None:
    before, _ = results(service, "before the errors")
    cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    out_of_memory = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), cublas]
    for number, error in enumerate([*out_of_memory, Diverged(1, 2, nan)]):
        assert results(service, f"explained {number}", raise_at=1, error=error)[1] == f"{type(error).__name__}: {error}"
    after, _ = results(service, "after the errors")
    assert before[-1]["pid"] == after[-1]["pid"]


def test_after_any_other_error_the_process_is_replaced(service: Jobs) -> None:
    before, _ = results(service, "before the unknown")
    assert results(service, "unknown", raise_at=1, error=RuntimeError("CUDA error"))[1] == "RuntimeError: CUDA error"
    after, _ = results(service, "after the unknown")
    assert before[-1]["pid"] != after[-1]["pid"]


def test_a_cancelled_job_ends_at_its_next_step(service: Jobs) -> None:
    updates = service.results(Job("cancelled", pickle.dumps({"steps": 1000, "seconds": 0.05})))
    next(updates)
    service.cancel("cancelled")
    with pytest.raises(JobStopped) as stopped:
        list(updates)
    assert stopped.value.was_cancelled


def test_a_job_outlives_its_worker(service: Jobs, tmp_path: Path) -> None:
    told, end = results(service, "dies", steps=3, die_at=2, die_once=str(tmp_path / "died"))
    assert [metrics["epoch"] for metrics in told] == [1, 2, 3, 4]
    assert end is None


def test_a_hung_worker_is_replaced(service: Jobs, tmp_path: Path) -> None:
    told, end = results(service, "hangs", steps=3, hang_at=2, die_once=str(tmp_path / "hung"))
    assert [metrics["epoch"] for metrics in told] == [1, 2, 3, 4]
    assert end is None


def test_a_slot_whose_workers_die_before_they_take_a_job_is_benched_and_ends() -> None:
    async def run() -> JobQueue:
        watched = JobQueue()
        for number in range(MOST_DEATHS):
            assert not (await watched.status()).benched
            actor: Any = ray.remote(toys.Short).remote()
            await actor.__ray_ready__.remote()
            await watched.join("slot-0", 0, RankProcess(actor, number))
            ray.kill(actor)
            while "slot-0" in watched.slots:
                await watched._look_after("slot-0", watched.slots["slot-0"])
        return watched

    benched = asyncio.run(asyncio.run(run()).status()).benched
    assert benched == {"slot-0": "its workers died 5 times in a row before they took a job"}


@pytest.mark.slow
def test_a_slots_own_errors_end_no_job_bench_it_and_halt_the_sweep(tmp_path: Path) -> None:
    """A job on the only slot, which lacks a package there."""
    jobs = Jobs.start()
    pool = Pool(jobs, toys.work, slots=1, shape=SlotShape(), storage=tmp_path)
    said: list[str] = []

    def halt(why: str) -> None:
        said.append(why)
        jobs.interrupt()

    try:
        with supervised(pool, tmp_path, halt=halt):
            assert results(jobs, "lacks", raise_at=1, error=ImportError("no torchcodec")) == ([], CANCELLED)
    finally:
        pool.close()
        for thread in pool.threads:  # a busy machine takes its time, and Ray may end after this
            thread.join(60.0)
        jobs.end()
    assert "slot-0 (ImportError: no torchcodec, 2 times in a row)" in said[0]
    assert "run the same command again" in said[0]
