"""The machine or cluster: joined when an address is given or this is a head, else embedded Ray here; how many slots it
holds.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import services

from sweeps.interrupt import Halted
from sweeps.plan import Plan
from sweeps.slots import SlotShape

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
OBJECT_STORE_BYTES = 200 * 1024**2  # nothing large travels through it: corpora and stages lie on the disk
MOST_CPU_SLOTS = 4  # on a node: each holds a whole encoder with its optimiser in memory


@contextmanager
def connected(plan: Plan) -> Iterator[SlotShape]:
    """Ray up; the shape of a slot.

    Raises:
        Halted: no slot can ever come up here.
    """
    with joined(_embedded_cpus(plan)):
        yield _slot_that_fits(plan)


@contextmanager
def joined(embedded_cpus: int | None = None) -> Iterator[None]:
    """Ray up and quiet. An embedded Ray ends with the block, a cluster is left as it was."""
    silence()
    if ray.is_initialized():  # a notebook's, a test's: not ours to end
        yield
        return
    if address():
        ray.init(address=address(), log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=embedded_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()


def address() -> str | None:
    """The cluster to join: RAY_ADDRESS, else the one that `ray start` has made this machine part of; None where there
    is none or RAY_ADDRESS says "local".
    """
    asked = os.environ.get("RAY_ADDRESS")
    if asked:
        return None if asked == "local" else asked
    started = services.find_bootstrap_address(None)  # its file outlives the cluster
    return started if started in services.find_gcs_addresses() else None


def on_nodes(
    function: Callable[[int], int], numbers: Iterable[int], *, wait_seconds: float | None = None
) -> Iterator[int]:
    """`map` over the cluster's cores, for preparing corpora; results come as they are ready.

    Raises:
        Halted: none came for `wait_seconds`.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=5)(lambda number: function(number))  # Ray takes no partial
    waiting = [task.remote(number) for number in numbers]
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=wait_seconds)
        if not ready:
            free = ray.available_resources().get("CPU", 0)
            raise Halted(
                f"no part of the recordings was decoded for {wait_seconds:.0f} s: the cluster has "
                f"{ray.cluster_resources().get('CPU', 0):g} CPU, {free:g} of them free; free some or wait longer "
                "(--wait), then run the same command again"
            )
        yield from ray.get(ready)


def slot_shape(plan: Plan, resources: dict[str, float]) -> SlotShape:
    """What one slot takes: a GPU per worker where there are GPUs, unless the plan says otherwise."""
    has_gpus = resources.get("GPU", 0.0) > 0
    gpus = plan.gpus_per_worker if plan.gpus_per_worker is not None else float(has_gpus)
    return SlotShape(workers=plan.workers_per_trial, cpus=plan.cpus_per_worker, gpus=gpus)


def _slot_that_fits(plan: Plan) -> SlotShape:
    has_gpus = any(node.get("GPU") for node in (*_nodes_now(), *_nodes_at_most()))
    shape = slot_shape(plan, {"GPU": float(has_gpus)})
    # The limits of an autoscaler that is not `ray up`'s are not known here: beside a head alone, the watch sees whether
    # the --slots come up.
    if _room(shape) or (plan.slots is not None and not ray.cluster_resources().get("CPU")):
        return shape
    raise Halted(
        f"{resources(shape)}, so no trial could ever run; "
        "ask for less (--workers-per-trial, --cpus-per-worker, --gpus-per-worker) or for a larger cluster; "
        "of one that scales up and was not made by ray up, say how many --slots to ask for"
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
    if not address() or not BOOTSTRAP.expanduser().exists():
        return []
    config = yaml.safe_load(BOOTSTRAP.expanduser().read_text())
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    return [kind.get("resources", {}) for kind in kinds.values() for _ in range(kind.get("max_workers", 0))]


def resources(shape: SlotShape) -> str:
    """What a slot asks for and what there is, in words."""
    there, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
    return (
        f"a trial asks for {shape}, and the cluster has {there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU "
        f"on {nodes} node" + ("s" if nodes > 1 else "")
    )


def room(plan: Plan, shape: SlotShape, jobs: Callable[[], int]) -> Callable[[], int] | None:
    """How many slots the cluster can hold and the jobs use by now; None where their number is fixed, by the plan or by
    the machine.
    """
    if plan.slots is not None or not address():
        return None
    return lambda: slot_count(plan, shape, jobs())


def slot_count(plan: Plan, shape: SlotShape, jobs: int) -> int:
    """As many slots as the resources hold, or will when the cluster has scaled up for them, and the jobs can use; at
    least one, which then waits for its resources.
    """
    if plan.slots is not None:
        return plan.slots
    room = _room(shape)
    return max(1, min(room, jobs, room if shape.gpus else MOST_CPU_SLOTS * len(_nodes_now())))


def silence() -> None:
    """Ray's and its companions' own output is noise beside the live view; errors still come through."""
    for name in ("ray", "ray.tune", "ray.train", "ray._private", "mlflow", "alembic", "optuna", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What these complain of with tracebacks is told by the tracker, or nobody reads it (Tune's snapshots).
    for name in ("mlflow.store.db.utils", "ray.tune.execution.experiment_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\..*|mlflow\..*|optuna\..*")


def _embedded_cpus(plan: Plan) -> int:
    here = os.cpu_count() or 1
    asked = (plan.slots or 1) * plan.workers_per_trial * plan.cpus_per_worker
    return max(here, int(-(-asked // 1)))
