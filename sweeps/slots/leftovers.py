"""Leftovers: placement groups whose Train controllers were killed, and with them the CPUs and GPUs of their slots. Ray
keeps such a group for as long as the driver lives.
"""

from contextlib import suppress
from typing import Any

import ray
from ray._private import state
from ray.core.generated import gcs_pb2
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

CONTROLLER = "TrainController"
Record: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # protobuf makes it when it is imported


def remove() -> None:
    """Removes every placement group that a dead Train controller of this driver has left."""
    with suppress(RayError, RuntimeError):  # of a Ray that is gone the supervisor tells
        for group in groups():
            if _is_left(group):
                ray.util.remove_placement_group(handle(group))


def groups() -> list[Any]:
    """Ray's own record of each placement group; its public table leaves out who made it."""
    table = state.state._connect_and_get_accessor().get_placement_group_table()
    return [Record.FromString(row) for row in table]


def handle(group: Any) -> Any:
    """What Ray's functions take for a group."""
    return PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def _is_left(group: Any) -> bool:
    ours = group.creator_job_id.hex() == ray.get_runtime_context().get_job_id()
    if group.state == Record.REMOVED or not ours or not group.creator_actor_dead:
        return False
    # A group that no actor made counts as one of a dead actor, too, and has no class.
    return bool(state.actors(group.creator_actor_id.hex()).get("ActorClassName") == CONTROLLER)
