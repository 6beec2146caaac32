"""The job queue's rules, without processes: who may run ahead, what halts a sweep."""

import asyncio

from sweeps.slots.job_queue import CANCELLED, Job, JobQueue

JOB = Job("trial", b"")


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
        assert queue.jobs["trial"].heard > 1e12
        await queue.cancel("trial")
        assert not await ahead

    asyncio.run(run())


def test_a_full_storage_halts_every_job_and_blames_none() -> None:
    async def run() -> None:
        queue = JobQueue()
        waiting = [asyncio.create_task(queue.follow(job, -1)) for job in (JOB, Job("other", b""))]
        await asyncio.sleep(0.05)
        await queue.halt("slot", JOB, "OSError: [Errno 28] No space left on device")
        assert [end for _, _, end in await asyncio.gather(*waiting)] == [CANCELLED, CANCELLED]
        assert (await queue.status()).halted == "OSError: [Errno 28] No space left on device"

    asyncio.run(run())
