"""Capacity: what one slot takes, and how many slots the machine or cluster holds, now or when it has scaled up."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import yaml

from sweeps.cluster import joining
from sweeps.faults import Halted
from sweeps.slots.pool import SlotShape

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
MOST_CPU_SLOTS = 4  # on a node: each holds a whole encoder with its optimiser in memory


@dataclass(frozen=True)
class SlotRequest:
    """What the user asks of the slots. `slots` None: as many as there is room for; `gpus` None: one per worker where
    there are GPUs.
    """

    slots: int | None = None
    workers: int = 1
    cpus: float = 1.0
    gpus: float | None = None

    def shape(self, *, has_gpus: bool) -> SlotShape:
        """What one slot takes."""
        return SlotShape(self.workers, self.cpus, float(has_gpus) if self.gpus is None else self.gpus)

    def embedded_cpus(self) -> int:
        """CPUs that an embedded Ray must claim to have, so that the slots can start."""
        return max(os.cpu_count() or 1, math.ceil((self.slots or 1) * self.workers * self.cpus))


def fitting_shape(request: SlotRequest) -> SlotShape:
    """The shape of a slot on this cluster.

    Raises:
        Halted: no slot can ever start here.
    """
    shape = request.shape(has_gpus=any(node.get("GPU") for node in (*_nodes_now(), *_nodes_at_most())))
    # The limits of an autoscaler other than `ray up`'s are unknown here: beside a head alone, the supervisor sees
    # whether the --slots start.
    if _room(shape) or (request.slots is not None and not ray.cluster_resources().get("CPU")):
        return shape
    raise Halted(
        f"No trial could ever run: {describe(shape)}. "
        "Ask for less (--workers-per-trial, --cpus-per-worker, --gpus-per-worker) or for a larger cluster; "
        "on one that scales up and was not made by ray up, name the number of --slots."
    )


def slot_count(request: SlotRequest, shape: SlotShape, jobs: int) -> int:
    """As many slots as the resources hold, or will hold when the cluster has scaled up, and the jobs can use; at least
    one, which then waits for its resources.
    """
    if request.slots is not None:
        return request.slots
    room = _room(shape)
    return max(1, min(room, jobs, room if shape.gpus else MOST_CPU_SLOTS * len(_nodes_now())))


def can_grow(request: SlotRequest) -> bool:
    """Whether the number of slots follows the cluster; it is fixed by the user's request or by a single machine."""
    return request.slots is None and joining.address() is not None


def describe(shape: SlotShape) -> str:
    """What a slot asks for and what the cluster has, in words."""
    resources, nodes = ray.cluster_resources(), len(_nodes_now())
    return (
        f"a trial asks for {shape}, and the cluster has {resources.get('CPU', 0):g} CPU and "
        f"{resources.get('GPU', 0):g} GPU on {nodes} node" + ("s" if nodes > 1 else "")
    )


def _room(shape: SlotShape) -> int:
    """How many slots there is room for, now or when the cluster has scaled up."""
    worker = replace(shape, workers=1)
    return max(sum(map(worker.fit_into, nodes)) for nodes in (_nodes_now(), _nodes_at_most())) // shape.workers


def _nodes_now() -> list[dict[str, float]]:
    """The resources of each node that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _nodes_at_most() -> list[dict[str, float]]:
    """The workers that the cluster can scale up to: Ray does not tell, but `ray up` leaves its file on the head."""
    if not joining.address() or not BOOTSTRAP.expanduser().exists():
        return []
    config = yaml.safe_load(BOOTSTRAP.expanduser().read_text())
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    return [kind.get("resources", {}) for kind in kinds.values() for _ in range(kind.get("max_workers", 0))]
