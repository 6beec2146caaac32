"""The job queue's rules, without processes: who may run ahead, whose a fault is and what it ends."""

import asyncio
import errno
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from audioconfit.errors import Damaged, InputError
from audioconfit.training import Diverged
from sweeps import faults
from sweeps.faults import Halted, Unusable
from sweeps.slots import blame
from sweeps.slots.bench import Fault
from sweeps.slots.job_queue import ATTEMPTS, CANCELLED, DONE, Job, JobQueue, RankProcess

JOB, OTHER = Job("trial", b""), Job("other", b"")
GAVE_UP = f"gave up after {ATTEMPTS} attempts without progress: its worker died"


def queue_of(*slots: str, node: str = "", **how: Any) -> JobQueue:
    """With slots that are up; it hands out jobs at once."""
    queue = JobQueue(**how)
    queue.born = -1e9
    for slot in slots:
        queue.slots[slot] = {0: RankProcess(None, 0, node)}
        queue.nodes[slot] = node
    return queue


def submit(queue: JobQueue, *jobs: Job) -> None:
    for job in jobs:
        queue._entry(job)


async def taken(queue: JobQueue, slot: str) -> str | None:
    """The key of the job that the slot gets, if it gets one."""
    job = await queue.take(slot, wait_seconds=0.001)
    assert job is None or isinstance(job, Job)
    return None if job is None else job.key


def test_a_trial_is_never_further_ahead_of_its_search_than_one_step() -> None:
    async def run() -> None:
        queue = JobQueue()
        assert await queue.report("slot", JOB, 1, {"epoch": 1})
        ahead = asyncio.create_task(queue.report("slot", JOB, 2, {"epoch": 2}))
        assert await queue.follow(JOB, -1) == (1, {"epoch": 1}, None)
        await asyncio.sleep(0.05)
        assert not ahead.done()  # step 1 was handed over and may still be judged
        assert await queue.follow(JOB, 1) == (2, {"epoch": 2}, None)
        assert await ahead

    asyncio.run(run())


def test_a_trial_that_waits_to_be_judged_is_not_silent_and_can_be_stopped() -> None:
    async def run() -> None:
        queue = JobQueue(patience_seconds=0.0)
        await queue.report("slot", JOB, 1, {"epoch": 1})
        ahead = asyncio.create_task(queue.report("slot", JOB, 2, {"epoch": 2}))
        await asyncio.sleep(0.05)
        assert not queue._is_silent(queue.jobs["trial"])
        await queue.cancel("trial")
        assert not await ahead

    asyncio.run(run())


def test_a_job_whose_follower_died_gives_its_slot_back_and_runs_again_when_it_is_followed_again() -> None:
    async def run() -> None:
        queue = queue_of("slot", patience_seconds=0.05)
        submit(queue, JOB)
        assert await taken(queue, "slot") == "trial"
        await queue.report("slot", JOB, 1, {"epoch": 1})
        ahead = asyncio.create_task(queue.report("slot", JOB, 2, {"epoch": 2}))
        await asyncio.sleep(0.1)
        for entry in list(queue.jobs.values()):
            queue._forget_if_abandoned(entry)
        await queue._wake()
        assert not await ahead
        await queue.finish("slot", JOB)  # what a worker says that was told to stop
        submit(queue, OTHER)
        assert await taken(queue, "slot") == "other"
        await queue.finish("slot", OTHER)
        again = asyncio.create_task(queue.follow(JOB, -1))
        await asyncio.sleep(0.01)
        assert await taken(queue, "slot") == "trial"
        await queue.report("slot", JOB, 1, {"epoch": 1})
        assert await again == (1, {"epoch": 1}, None)

    asyncio.run(run())


def test_a_job_that_is_followed_is_never_abandoned() -> None:
    async def run() -> None:
        queue = queue_of("slot", patience_seconds=0.05)
        followed = asyncio.create_task(queue.follow(JOB, -1))
        await asyncio.sleep(0.01)
        assert await taken(queue, "slot") == "trial"
        await queue.report("slot", JOB, 1, {"epoch": 1})
        await followed
        await queue.follow(JOB, 0)  # the next step takes its time
        await asyncio.sleep(0.1)
        queue._forget_if_abandoned(queue.jobs["trial"])
        assert "trial" in queue.jobs

    asyncio.run(run())


def test_the_queue_does_not_read_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        queue = JobQueue()
        queue.born -= 10.0
        monkeypatch.setattr(time, "time", lambda: 0.0)  # set back by half a century
        submit(queue, JOB)
        assert await asyncio.wait_for(taken(queue, "slot"), 1.0) == "trial"
        assert not queue._is_silent(queue.jobs["trial"])

    asyncio.run(run())


# Whose a fault is.


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("no"), Fault.RECIPE),
        (InputError("No."), Fault.RECIPE),
        (MemoryError(), Fault.RECIPE),
        (torch.OutOfMemoryError("CUDA out of memory"), Fault.RECIPE),
        (Diverged(1, 2, float("nan")), Fault.RECIPE),
        (ZeroDivisionError(), Fault.RECIPE),
        (ModuleNotFoundError("No module named 'torchcodec'"), Fault.SLOT),
        (FileNotFoundError(errno.ENOENT, "No such file", "/opt/backbone"), Fault.SLOT),
        (ConnectionResetError(), Fault.SLOT),
        (OSError(errno.ENOSPC, "No space left on device"), Fault.STORAGE),
        (RuntimeError("database or disk is full"), Fault.STORAGE),
        (Damaged("Parts are damaged."), Fault.STORAGE),
        (Halted("The recordings have changed."), Fault.STORAGE),
        (Unusable("The storage cannot be used."), Fault.NODE),
        (RuntimeError("CUDA error: an illegal memory access"), Fault.UNCLEAR),
        (KeyError("x"), Fault.UNCLEAR),
    ],
)
def test_an_error_is_the_recipes_the_slots_the_storages_or_unclear(error: Exception, fault: Fault) -> None:
    assert blame.of(error) is fault


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/storage/try/stages/a"), True),
        (OSError(errno.EROFS, "Read-only file system", "/storage/try/inflight/a.pt"), True),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/storage/try/stages/a"), True),
        (PermissionError(errno.EACCES, "Permission denied", "/dev/nvidia0"), False),
        (FileNotFoundError(errno.ENOENT, "No such file", "/storage/try/stages/a"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (RuntimeError("open file failed with strerror: Permission denied"), True),
        (RuntimeError("attempt to write a readonly database"), True),
        (RuntimeError("CUDA error"), False),
        (InputError("Cannot write to x (Permission denied)."), False),
    ],
)
def test_what_cannot_be_written_below_the_storage_is_the_storages(error: Exception, is_ours: bool) -> None:
    found = faults.trouble(error, Path("/storage/try"), Path("/storage/prepared"))
    assert (found is not None) == is_ours
    if found is not None:
        assert str(error) in found
        assert "run the same command again" in found


def test_a_fault_of_the_storage_halts_every_job_and_blames_none() -> None:
    async def run() -> None:
        queue = JobQueue()
        waiting = [asyncio.create_task(queue.follow(job, -1)) for job in (JOB, OTHER)]
        await asyncio.sleep(0.05)
        await queue.fail("slot", JOB, Fault.STORAGE, "OSError: [Errno 28] No space left on device")
        assert [end for _, _, end in await asyncio.gather(*waiting)] == [CANCELLED, CANCELLED]
        assert (await queue.status()).halted == "OSError: [Errno 28] No space left on device"

    asyncio.run(run())


def test_a_slots_fault_hands_the_job_on_and_two_in_a_row_bench_the_slot() -> None:
    async def run() -> None:
        queue = queue_of("bad", "good")
        submit(queue, JOB, OTHER)
        assert await taken(queue, "bad") == "trial"
        await queue.fail("bad", JOB, Fault.SLOT, "ImportError: no torchcodec")
        assert await taken(queue, "bad") == "other"  # and not the one that failed here
        await queue.fail("bad", OTHER, Fault.SLOT, "ImportError: no torchcodec")
        assert await taken(queue, "bad") is None
        status = await queue.status()
        assert status.benched == {"bad": "ImportError: no torchcodec, 2 times in a row"}
        assert status.live == 1
        for key in ("trial", "other"):
            assert await taken(queue, "good") == key
            await queue.finish("good", queue.jobs[key].job)
        assert {entry.end for entry in queue.ended.values()} == {DONE}

    asyncio.run(run())


def test_a_node_that_cannot_use_the_storage_is_benched_and_the_last_such_node_halts_the_sweep() -> None:
    async def run() -> None:
        queue = queue_of("bad")
        queue.slots |= queue_of("good").slots
        queue.nodes = {"bad": "a", "good": "b"}
        submit(queue, JOB, OTHER)
        for key in ("trial", "other"):
            assert await taken(queue, "bad") == key
            await queue.fail("bad", queue.jobs[key].job, Fault.NODE, "The storage cannot be used on a.")
        assert await taken(queue, "bad") is None
        status = await queue.status()
        assert status.benched == {"bad": "The storage cannot be used on a., 2 times in a row"}
        assert status.halted is None
        assert await taken(queue, "good") == "trial"
        await queue.fail("good", JOB, Fault.NODE, "The storage cannot be used on b.")
        assert (await queue.status()).halted == "The storage cannot be used on b."
        assert not [entry.end for entry in queue.ended.values() if entry.end != CANCELLED]

    asyncio.run(run())


def test_a_slot_of_the_same_node_is_no_other_node() -> None:
    async def run() -> None:
        queue = queue_of("one", "two", node="a")
        submit(queue, JOB)
        await taken(queue, "one")
        await queue.fail("one", JOB, Fault.NODE, "The storage cannot be used on a.")
        assert (await queue.status()).halted == "The storage cannot be used on a."

    asyncio.run(run())


def test_one_job_alone_benches_a_slot_whose_fault_is_certain_and_costs_no_attempt() -> None:
    async def run() -> None:
        queue = queue_of("only")
        submit(queue, JOB)
        for _ in range(2):
            assert await taken(queue, "only") == "trial"
            await queue.fail("only", JOB, Fault.SLOT, "ImportError: no torchcodec")
        assert await taken(queue, "only") is None
        assert (queue.jobs["trial"].end, queue.jobs["trial"].attempts) == (None, 0)

    asyncio.run(run())


def test_progress_between_two_failures_and_another_node_clear_a_slot() -> None:
    async def run() -> None:
        queue = queue_of("slot", node="a")
        submit(queue, JOB, OTHER)
        await taken(queue, "slot")
        await queue.fail("slot", JOB, Fault.SLOT, "no")
        await taken(queue, "slot")
        await queue.report("slot", JOB, 1, {"epoch": 1})
        await queue.fail("slot", JOB, Fault.SLOT, "no")
        assert not queue.bench.holds("slot")
        await taken(queue, "slot")
        await queue.fail("slot", JOB, Fault.SLOT, "no")
        assert queue.bench.holds("slot")
        await queue.join("slot", 0, RankProcess(None, 1, "a"))
        assert queue.bench.holds("slot")
        await queue.join("slot", 0, RankProcess(None, 2, "b"))
        assert not queue.bench.holds("slot")

    asyncio.run(run())


def test_an_unclear_error_is_the_jobs_own_where_another_slot_agrees_or_there_is_none() -> None:
    async def run() -> None:
        alone = queue_of("only")
        submit(alone, JOB)
        await taken(alone, "only")
        await alone.fail("only", JOB, Fault.UNCLEAR, "RuntimeError: broken")
        assert alone.ended["trial"].end == "RuntimeError: broken"
        both = queue_of("one", "two")
        submit(both, JOB)
        await taken(both, "one")
        await both.fail("one", JOB, Fault.UNCLEAR, "RuntimeError: broken")
        await both.fail("one", JOB, Fault.UNCLEAR, "RuntimeError: broken")  # the second rank of the same slot
        assert await taken(both, "one") is None  # it is the other one's turn
        assert await taken(both, "two") == "trial"
        await both.fail("two", JOB, Fault.UNCLEAR, "RuntimeError: broken")
        assert both.ended["trial"].end == "RuntimeError: broken"
        assert not any(both.bench.rows.values())

    asyncio.run(run())


def test_a_job_that_no_worker_survives_is_not_held_against_its_slot() -> None:
    async def run() -> None:
        queue = queue_of("only")
        submit(queue, JOB, OTHER)
        for _ in range(ATTEMPTS):
            assert await taken(queue, "only") == "trial"
            queue._hand_on(queue.jobs["trial"], "its worker died")
        assert queue.ended["trial"].end == GAVE_UP
        assert await taken(queue, "only") == "other"
        queue._hand_on(queue.jobs["other"], "its worker died")
        assert await taken(queue, "only") == "other"

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(
    slots=draw.integers(1, 4),
    jobs=draw.integers(1, 10),
    bad=draw.dictionaries(draw.integers(0, 3), draw.sampled_from(["slot", "unclear", "death"]), max_size=4),
    poison=draw.sets(draw.integers(0, 9), max_size=1),
    seed=draw.integers(0, 1000),
)
def test_only_the_recipe_ends_a_trial(slots: int, jobs: int, bad: dict[int, str], poison: set[int], seed: int) -> None:
    """Simulated slots, some of which fail every job in their own way, and a job that no worker survives, by any order.

    Where all but one slot are good, or the bad ones' errors are certain, every good job is done by a good slot. Errors
    that a slot has to answer for never end a job. Without a bad slot the one job ends, and no slot is benched.
    """
    bad = {slot: how for slot, how in bad.items() if slot < slots}

    async def run() -> JobQueue:
        queue, order = queue_of(*map(str, range(slots))), random.Random(seed)
        submit(queue, *(Job(str(number), b"") for number in range(jobs)))
        for turn in [slot for _ in range(40) for slot in order.sample(range(slots), slots)]:
            slot, entry = str(turn), queue._next(str(turn))
            if entry is None:
                continue
            entry.slot, entry.attempts = slot, entry.attempts + 1
            if int(entry.job.key) in poison or bad.get(turn) == "death":
                queue._hand_on(entry, "its worker died")
            elif turn in bad:
                await queue.fail(slot, entry.job, Fault(bad[turn]), "no")
            else:
                await queue.finish(slot, entry.job)
        return queue

    queue = asyncio.run(run())
    ends = {int(key): entry.end for key, entry in queue.ended.items()}
    good = set(range(jobs)) - poison
    certain = set(bad.values()) <= {"slot"}
    if len(bad) < slots and (certain or len(bad) == 1):
        assert {number: ends.get(number) for number in good} == dict.fromkeys(good, DONE)
    if certain:
        assert {ends.get(number, DONE) for number in good} <= {DONE}
    if not bad:
        assert {ends[number] for number in poison if number < jobs} <= {GAVE_UP}
        assert not queue.bench.reasons()
