"""What a killed Train controller leaves behind holds no CPU for long, and nothing of a slot that lives is removed."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drivers
import pytest
import ray
import toys

from sweeps.slots import leftovers
from sweeps.slots.job_queue import Job
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool, SlotShape

CONTROLLER, ALL_CPUS = "ray::TrainController", 2.0


def wait_for(reached: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def groups(state: str) -> set[str]:
    """The ids of the placement groups with CPUs that are in that state."""
    table = ray.util.placement_group_table()
    return {key for key, group in table.items() if group["state"] == state and "CPU" in group["bundles"][0]}


def controllers() -> list[int]:
    return [pid for pid in drivers.descendants(os.getpid()) if drivers._title(pid).startswith(CONTROLLER)]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_slot_whose_controller_dies_before_its_worker_joins_comes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "JOIN_SECONDS", 5.0)
    before = groups("CREATED")
    jobs = Jobs.start()
    pool = Pool(jobs, toys.work, slots=1, shape=SlotShape(cpus=ALL_CPUS), storage=tmp_path)
    try:
        wait_for(lambda: groups("CREATED") - before)
        (left,) = groups("CREATED") - before
        (controller,) = controllers()
        os.kill(controller, signal.SIGKILL)
        assert jobs.placement_groups() == {}
        assert list(jobs.results(Job("job", pickle.dumps({}))))[-1].is_last
        (known,) = jobs.placement_groups().values()
        assert known.id.hex() != left
        assert left in groups("REMOVED")
    finally:
        pool.close()
        jobs.end()


@pytest.mark.usefixtures("local_ray")
def test_of_the_groups_that_were_there_only_those_of_the_dead_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "JOIN_SECONDS", 1.0)
    monkeypatch.setattr(leftovers, "LOOK_SECONDS", 0.1)
    place = ray.util.placement_group
    dead, never, lives, proxy = (place([{kind: much}]) for kind, much in [*[("CPU", 0.1)] * 3, ("memory", 1.0)])
    waits = place([{"CPU": ALL_CPUS}])  # for a place, as a slot's that starts later
    try:
        wait_for(lambda: {group.id.hex() for group in (dead, never, lives)} <= groups("CREATED"))
        jobs: Any = SimpleNamespace(placement_groups=lambda: {"slot-0": dead, "slot-1": lives})
        closing = threading.Event()
        leftovers.remove("slot-0", jobs, closing)
        wait_for(lambda: {group.id.hex() for group in (dead, never)} <= groups("REMOVED"))
        time.sleep(1.5)
        assert lives.id.hex() in groups("CREATED")
        assert waits.id.hex() in groups("PENDING") | groups("CREATED")
        assert ray.util.placement_group_table(proxy)["state"] == "CREATED"
        closing.set()
    finally:
        for group in (dead, never, lives, proxy, waits):
            ray.util.remove_placement_group(group)
