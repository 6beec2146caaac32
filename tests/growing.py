"""A pool on a cluster that grows, and on which less work is left then, in a process of its own: one Ray per process.
Prints how many slots are up.
"""

import tempfile
import time
from pathlib import Path

import ray
import toys
from ray.cluster_utils import Cluster

from sweeps import hub, watch
from sweeps.slots import Pool, SlotShape
from sweeps.watch import Watch


def main() -> None:
    watch.GROW_SECONDS = 1.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address)
    folder, shape, queue = Path(tempfile.mkdtemp()), SlotShape(), hub.start(idle_seconds=1.0)
    enough = 8
    pool = Pool(queue, toys.work, slots=1, shape=shape, storage=folder)
    watched = Watch(
        queue,
        pool,
        log=folder / "hub.log",
        wait_seconds=600.0,
        room=lambda: min(enough, shape.fit_into(ray.cluster_resources())),
        resources=lambda: "",
        halt=print,
    )
    for slots in (1, 2):
        while ray.get(queue.live.remote()) < slots:
            time.sleep(0.1)
        print(slots, "up", flush=True)
        if slots == 1:
            cluster.add_node(num_cpus=1)
    enough = 1
    while ray.get(queue.live.remote()) > 1 or ray.available_resources().get("CPU", 0) < 1:
        time.sleep(0.1)
    print("1 let go, its place is free", flush=True)
    watched.close()
    pool.close()


if __name__ == "__main__":
    main()
