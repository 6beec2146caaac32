"""What a killed Train controller leaves behind holds no CPU for long, and nothing else is removed."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drivers
import pytest
import ray
import toys

from sweeps.slots import leftovers
from sweeps.slots.job_queue import Job
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool, SlotShape

ALL_CPUS = 2.0
pytestmark = pytest.mark.usefixtures("local_ray")


def wait_for(reached: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def groups(state: str) -> set[str]:
    """The ids of the placement groups that are in that state."""
    return {key for key, group in ray.util.placement_group_table().items() if group["state"] == state}


@pytest.mark.slow
def test_a_slot_whose_controller_dies_before_its_worker_joins_comes_up(tmp_path: Path) -> None:
    before, jobs = groups("CREATED"), Jobs.start()
    pool = Pool(jobs, toys.work, slots=1, shape=SlotShape(cpus=ALL_CPUS), storage=tmp_path)
    try:
        wait_for(lambda: groups("CREATED") - before)
        (left,) = groups("CREATED") - before
        titles = {pid: drivers._title(pid) for pid in drivers.descendants(os.getpid())}
        (controller,) = (pid for pid, title in titles.items() if title.startswith("ray::TrainController"))
        os.kill(controller, signal.SIGKILL)
        assert jobs.live_slots() == 0
        assert list(jobs.results(Job("job", pickle.dumps({}))))[-1].is_last
        assert left in groups("REMOVED")
    finally:
        pool.close()
        jobs.end()


def test_only_what_a_dead_train_controller_made_is_removed() -> None:
    made: dict[str, Any] = {
        name: ray.remote(num_cpus=0)(type(kind, (toys.Maker,), {})).remote()
        for name, kind in [("dead", leftovers.CONTROLLER), ("lives", leftovers.CONTROLLER), ("users", "Maker")]
    }
    ids = {name: ray.get(maker.make.remote()) for name, maker in made.items()}
    own = ray.util.placement_group([{"CPU": 0.1}])
    wait_for(lambda: {*ids.values(), own.id.hex()} <= groups("CREATED"))
    ray.kill(made["dead"])
    ray.kill(made["users"])
    wait_for(
        lambda: (
            sum(group.creator_actor_dead for group in leftovers.groups() if group.state == leftovers.Record.CREATED)
            >= 3
        )
    )
    leftovers.remove()
    wait_for(lambda: ids["dead"] in groups("REMOVED"))
    assert {ids["lives"], ids["users"], own.id.hex()} <= groups("CREATED")
    for group in leftovers.groups():
        if group.placement_group_id.hex() in (ids["lives"], ids["users"], own.id.hex()):
            ray.util.remove_placement_group(leftovers.handle(group))
