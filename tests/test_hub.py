"""The hub's rules, without processes: who may run ahead, what halts a sweep."""

import asyncio

from sweeps.hub import CANCELLED, Hub, Order

ORDER = Order("trial", b"")


def test_a_trial_is_never_further_ahead_of_its_search_than_one_step() -> None:
    async def run() -> None:
        hub = Hub()
        assert await hub.report("slot", ORDER, 1, {"epoch": 1})
        ahead = asyncio.create_task(hub.report("slot", ORDER, 2, {"epoch": 2}))
        assert await hub.follow(ORDER, -1) == (1, {"epoch": 1}, None)
        await asyncio.sleep(0.05)
        assert not ahead.done()  # step 1 was handed over and may still be weighed
        assert await hub.follow(ORDER, 1) == (2, {"epoch": 2}, None)
        assert await ahead

    asyncio.run(run())


def test_a_trial_that_waits_to_be_weighed_is_not_silent_and_can_be_stopped() -> None:
    async def run() -> None:
        hub = Hub(patience_seconds=0.0)
        await hub.report("slot", ORDER, 1, {"epoch": 1})
        ahead = asyncio.create_task(hub.report("slot", ORDER, 2, {"epoch": 2}))
        await asyncio.sleep(0.05)
        assert hub.jobs["trial"].heard > 1e12
        await hub.cancel("trial")
        assert not await ahead

    asyncio.run(run())


def test_a_full_storage_halts_every_job_and_blames_none() -> None:
    async def run() -> None:
        hub = Hub()
        waiting = [asyncio.create_task(hub.follow(order, -1)) for order in (ORDER, Order("other", b""))]
        await asyncio.sleep(0.05)
        await hub.halt("slot", ORDER, "OSError: [Errno 28] No space left on device")
        assert [end for _, _, end in await asyncio.gather(*waiting)] == [CANCELLED, CANCELLED]
        assert (await hub.look()).halted == "OSError: [Errno 28] No space left on device"

    asyncio.run(run())
