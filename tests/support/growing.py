"""A pool on a cluster that grows, and on which less work is left then, in a process of its own: one Ray per process.
Prints how many slots are up.
"""

import tempfile
import time
from pathlib import Path

import ray
import toys
from ray.cluster_utils import Cluster

from sweeps.slots import supervisor
from sweeps.slots.jobs import Jobs
from sweeps.slots.pool import Pool, SlotShape
from sweeps.slots.supervisor import Supervisor


def main() -> None:
    supervisor.GROW_SECONDS = 1.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address)
    folder, shape, jobs = Path(tempfile.mkdtemp()), SlotShape(), Jobs.start(idle_seconds=1.0)
    enough = 8
    pool = Pool(jobs, toys.work, slots=1, shape=shape, storage=folder)
    watched = Supervisor(
        jobs,
        pool,
        log=folder / "slots.log",
        wait_seconds=600.0,
        still_seconds=600.0,
        waiting=lambda: 0,
        room=lambda: min(enough, shape.fit_into(ray.cluster_resources())),
        resources=lambda: "",
        halt=print,
        leave=print,
    )
    for slots in (1, 2):
        while jobs.live_slots() < slots:
            time.sleep(0.1)
        print(slots, "up", flush=True)
        if slots == 1:
            cluster.add_node(num_cpus=1)
    enough = 1
    while jobs.live_slots() > 1 or ray.available_resources().get("CPU", 0) < 1:
        time.sleep(0.1)
    print("1 let go, its place is free", flush=True)
    watched.close()
    pool.close()


if __name__ == "__main__":
    main()
