"""The pool: the driver's side of the warm slots. Each slot is a Ray Train run that a thread keeps alive.

Imports no torch, so that slots can start while their driver still imports it.
"""

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from sweeps.slots import leftovers
from sweeps.slots.jobs import Jobs
from sweeps.slots.slot import Slot, Work, place

# Processes grow: 0.4 MiB per trial, measured over 60. A new one costs 7 s.
RECYCLE_AFTER = 500
PAUSE_SECONDS = 2.0  # before a slot starts again, and until Ray knows that a controller is dead
# Of what Train does for each run, each in a process of 120 MB: hand out Ray's data sets, of which there are none, and
# remove the placement group of a dead controller, as `leftovers` does.
NEEDLESS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@dataclass(frozen=True)
class SlotShape:
    """What one slot takes: `workers` ranks, each with `cpus` and `gpus` (a fraction shares a GPU)."""

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers} with {self.cpus:g} CPU and {self.gpus:g} GPU" + (" each" if self.workers > 1 else "")

    def fit_into(self, resources: Mapping[str, float]) -> int:
        """How many slots of this shape the resources hold."""
        by_cpu = resources.get("CPU", 0.0) / (self.cpus * self.workers) if self.cpus else float("inf")
        by_gpu = resources.get("GPU", 0.0) / (self.gpus * self.workers) if self.gpus else float("inf")
        return int(min(by_cpu, by_gpu))


def serve(config: dict[str, Any]) -> None:
    """The train loop of the slot `config["slot"]`."""
    from sweeps.slots import worker  # torch and transformers, which only the workers need

    worker.serve(config["slot"])


class Lean:
    """A trainer without what a slot does not need. Where Train calls it otherwise one day, slots have it again."""

    def _create_default_callbacks(self) -> list[Any]:
        usual = super()._create_default_callbacks()  # type: ignore[misc]  # of the trainer beside it
        return [callback for callback in usual if type(callback).__name__ not in NEEDLESS]


class OneWorker(Lean, DataParallelTrainer):
    """Nobody to connect with: a process group of one cost Train's controller the import of torch, 4 s of CPU time and
    130 MB for each slot.
    """


class Pool:
    """Keeps up to `slots` Train runs alive, each by a thread of the driver; those without resources wait for them.

    `work`: what a job does, or its "module:name".
    """

    def __init__(self, jobs: Jobs, work: Work | str, *, slots: int, shape: SlotShape, storage: Path) -> None:
        self.jobs, self.work, self.shape, self.storage = jobs, work, shape, storage
        self.closing = threading.Event()
        self.errors: list[str] = []
        self.threads: list[threading.Thread] = []
        self.numbers = itertools.count()
        self.grow(slots)

    def grow(self, slots: int) -> None:
        """Starts slots until there are that many; a slot whose node went away waits for another node."""
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        for _ in range(len(self.threads), slots):
            thread = threading.Thread(target=self._keep, args=(f"slot-{next(self.numbers)}",), daemon=True)
            self.threads.append(thread)
            thread.start()

    @property
    def size(self) -> int:
        """How many slots there are, up or not."""
        return sum(thread.is_alive() for thread in self.threads)

    def close(self, timeout_seconds: float = 20.0) -> None:
        """Lets the slots end and waits for them."""
        self.closing.set()
        self.jobs.close()
        deadline = time.monotonic() + timeout_seconds
        for thread in self.threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    def _keep(self, slot: str) -> None:
        while not self.closing.is_set():
            try:
                self._trainer(slot).fit()
                if not self.closing.is_set() and self.jobs.is_given_up(slot):
                    self.closing.wait()  # keeps its place, where a new slot would not live either
                return  # the queue let it go
            except Exception as error:
                self.errors.append(f"{slot}: {type(error).__name__}: {str(error)[:300]}")
                time.sleep(PAUSE_SECONDS)
                leftovers.remove()  # also when the pool closes: in a notebook Ray may outlive it

    def _trainer(self, name: str) -> Any:
        """The Train run of a slot, of either of two kinds that have no type in common."""
        shape = self.shape
        slot = Slot(self.jobs, name, place(self.work), RECYCLE_AFTER, shape.gpus)
        resources = {"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {})
        scaling = ScalingConfig(num_workers=shape.workers, use_gpu=shape.gpus > 0, resources_per_worker=resources)
        # Attempts count per job: the queue gives up on a poisonous job, and a slot is replaced as often as needed.
        run = RunConfig(
            name=f"{name}-{time.time_ns()}",
            storage_path=str(self.storage),
            failure_config=FailureConfig(max_failures=-1),
        )
        if shape.workers == 1:
            return OneWorker(serve, train_loop_config={"slot": slot}, scaling_config=scaling, run_config=run)
        from ray.train.torch import TorchConfig, TorchTrainer

        class SeveralWorkers(Lean, TorchTrainer):
            pass

        # gloo beside nccl: waiting for jobs and agreeing on flags must not occupy the GPU.
        group = TorchConfig(backend="cpu:gloo,cuda:nccl" if shape.gpus else "gloo", timeout_s=600)
        return SeveralWorkers(
            serve, train_loop_config={"slot": slot}, torch_config=group, scaling_config=scaling, run_config=run
        )
