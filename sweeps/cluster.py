"""The machine or cluster: joined when an address is given or this is a head, else embedded Ray here; how many slots it
holds.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from sweeps.plan import Plan
from sweeps.slots import SlotShape

OBJECT_STORE_BYTES = 200 * 1024**2  # nothing large travels through it: corpora and stages lie on the disk
MOST_CPU_SLOTS = 4  # each holds a whole encoder with its optimiser in memory


@contextmanager
def connected(plan: Plan) -> Iterator[SlotShape]:
    """Ray up and quiet; the shape of a slot. An embedded Ray ends with the block, a cluster is left as it was."""
    silence()
    if ray.is_initialized():  # a notebook's, a test's: not ours to end
        yield slot_shape(plan, ray.cluster_resources())
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            num_cpus=_embedded_cpus(plan),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield slot_shape(plan, ray.cluster_resources())
    finally:
        ray.shutdown()


def slot_shape(plan: Plan, resources: dict[str, float]) -> SlotShape:
    """What one slot takes: a GPU per worker where there are GPUs, unless the plan says otherwise."""
    has_gpus = resources.get("GPU", 0.0) > 0
    gpus = plan.gpus_per_worker if plan.gpus_per_worker is not None else float(has_gpus)
    return SlotShape(workers=plan.workers_per_trial, cpus=plan.cpus_per_worker, gpus=gpus)


def slot_count(plan: Plan, shape: SlotShape, jobs: int) -> int:
    """As many slots as the resources hold and the jobs can use; at least one, which then waits for its resources."""
    if plan.slots is not None:
        return plan.slots
    room = shape.fit_into(ray.cluster_resources())
    return max(1, min(room, jobs, room if shape.gpus else MOST_CPU_SLOTS))


def silence() -> None:
    """Ray's and its companions' own output is noise beside the live view; errors still come through."""
    for name in ("ray", "ray.tune", "ray.train", "ray._private", "mlflow", "alembic", "optuna", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*|mlflow\..*|optuna\..*")


def _embedded_cpus(plan: Plan) -> int:
    here = os.cpu_count() or 1
    asked = (plan.slots or 1) * plan.workers_per_trial * plan.cpus_per_worker
    return max(here, int(-(-asked // 1)))
