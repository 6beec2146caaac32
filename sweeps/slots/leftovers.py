"""Leftovers: placement groups whose Train controllers were killed, and with them the CPUs and GPUs of their slots.

Ray keeps such a group for as long as the driver lives, and does not say who made it. One that a worker has joined from
is known by its slot. One whose controller died before that is told by this: it is this driver's, takes CPUs or GPUs
(Tune's take none), was there when the controller had died, and no worker joins from it.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

from sweeps.slots.jobs import Jobs

LOOK_SECONDS = 2.0
# A worker joins before it imports torch, seconds after its group has its place. Where that takes longer than this, or
# the queue was killed, too, and a slot has not joined since, a slot that lives is started again.
JOIN_SECONDS = 120.0


def remove(slot: str, jobs: Jobs, closing: threading.Event) -> None:
    """Removes what the dead controller of the slot has left behind, in a thread of its own, for it may take as long as
    other slots take to join. To be called before the slot starts again.
    """
    with suppress(RayError):  # of a Ray that is gone the supervisor tells
        driver, table = ray.get_runtime_context().get_job_id(), ray.util.placement_group_table()
        there = {key for key, group in table.items() if key.endswith(driver) and _is_of_a_slot(group)}
        threading.Thread(target=_remove, args=(there, slot, jobs, closing), daemon=True).start()


def _is_of_a_slot(group: dict[str, Any]) -> bool:
    return any({"CPU", "GPU"} & set(bundle) for bundle in group["bundles"].values())


def _remove(there: set[str], slot: str, jobs: Jobs, closing: threading.Event) -> None:
    placed: dict[str, float] = {}  # since when a group has its place
    with suppress(RayError):
        while there:
            joined = {group.id.hex(): name for name, group in jobs.placement_groups().items()}
            for key in sorted(there):
                group = PlacementGroup(ray.PlacementGroupID.from_hex(key))
                state = ray.util.placement_group_table(group).get("state", "REMOVED")
                if state == "CREATED":
                    placed.setdefault(key, time.monotonic())
                alone = key not in joined and time.monotonic() - placed.get(key, time.monotonic()) > JOIN_SECONDS
                if alone or joined.get(key) == slot:
                    ray.util.remove_placement_group(group)
                if alone or key in joined or state == "REMOVED":
                    there.discard(key)
            if closing.wait(LOOK_SECONDS):
                return
