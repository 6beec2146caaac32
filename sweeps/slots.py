"""Warm slots: each is one long-lived Ray Train run that serves jobs from the hub, one after the other, on all its
ranks.

A TorchTrainer per trial costs about 19 s of process starts and leaks its placement group when Tune stops it early; a
slot pays once and hands over in tenths of a second. `serve` is the loop on the workers, `Pool` keeps the runs alive
from the driver. What a job does is not known here: `work(assignment, tell)` is given.
"""

import gc
import itertools
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from audioconfit.training import Diverged
from sweeps import storage
from sweeps.hub import CLOSED, Order, Place
from sweeps.interrupt import Halted

Tell = Callable[[int, dict[str, Any] | None], bool]
Work = Callable[[Any, Tell], None]
Value = TypeVar("Value")

# Errors that leave the process as good as before. After any other, nobody knows what is left of it.
EXPLAINED = (ValueError, MemoryError, torch.OutOfMemoryError, Diverged)

# Processes grow: 0.4 MiB per trial, measured over 60. A new one costs 7 s.
RECYCLE_AFTER = 500


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
    """The train loop of a slot. Ends when the hub is closed; raises only to have Train replace the worker group."""
    hub, slot, work, recycle_after = config["hub"], config["slot"], config["work"], config["recycle_after"]
    rank, world = train.get_context().get_world_rank(), train.get_context().get_world_size()
    context = ray.get_runtime_context()
    place = Place(context.current_actor, os.getpid(), ray.util.get_current_placement_group())
    served = 0
    gc.freeze()  # the imported modules: half a million objects, which to look through after each job took 0.3 s
    while True:
        ray.get(hub.join.remote(slot, rank, place))
        order = _from_rank_zero(ray.get(hub.take.remote(slot)) if rank == 0 else None)
        if order is None:
            continue
        if order == CLOSED:
            return
        failure = _work(work, order, hub, slot, rank, world)
        if failure and failure.halts:
            ray.get(hub.halt.remote(slot, order, failure.why))
        elif rank == 0 or failure:
            ray.get(hub.finish.remote(slot, order, failure.why if failure else None))
        served += 1
        if failure and world > 1:
            raise RuntimeError(f"One rank failed and the others may wait for it in a collective: {failure.why}")
        if failure and not failure.explained:
            raise RuntimeError(f"Nobody knows what this error left behind, so the worker is replaced: {failure.why}")
        if recycle_after and served >= recycle_after:
            raise RuntimeError(f"Replaced on purpose after {served} jobs.")


@dataclass(frozen=True)
class Failure:
    """A job's own error, without its frames: those hold tensors, and so the GPU's memory."""

    why: str
    explained: bool
    halts: bool  # the whole sweep: no other job would escape it


def _work(work: Work, order: Order, hub: Any, slot: str, rank: int, world: int) -> Failure | None:
    """One job. Returns the job's own error; a collective broken by another rank's death is raised, for it is nobody's
    fault here.
    """

    def tell(step: int, metrics: dict[str, Any] | None) -> bool:
        return bool(_from_rank_zero(ray.get(hub.report.remote(slot, order, step, metrics)) if rank == 0 else None))

    try:
        work(pickle.loads(order.work), tell)
        return None
    except Exception as error:
        if world > 1 and _collective_broke(error):
            raise
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, Halted):
            return Failure(str(error), explained=True, halts=True)
        full = storage.is_full(error)
        return Failure(f"{type(error).__name__}: {error}", full or isinstance(error, EXPLAINED), halts=full)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _from_rank_zero(value: Value) -> Value:
    """Rank 0's value on every rank, so that all of them decide alike."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _collective_broke(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "c10d"))


class Pool:
    """Keeps up to `slots` Train runs alive, each by a thread of the driver; those that find no room wait for it."""

    def __init__(
        self, hub: Any, work: Work, *, slots: int, shape: SlotShape, storage: Path, recycle_after: int = RECYCLE_AFTER
    ) -> None:
        self.hub, self.work, self.shape, self.storage, self.recycle_after = hub, work, shape, storage, recycle_after
        self.closing = False
        self.errors: list[str] = []
        self.threads: list[threading.Thread] = []
        self.numbers = itertools.count()
        self.grow(slots)

    def grow(self, slots: int) -> None:
        """So many slots, if there are fewer; a slot whose node went away waits for another."""
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        for _ in range(len(self.threads), slots):
            thread = threading.Thread(target=self._keep, args=(f"slot-{next(self.numbers)}",), daemon=True)
            self.threads.append(thread)
            thread.start()

    def close(self, timeout_seconds: float = 20.0) -> None:
        """Lets the slots end and waits for them."""
        self.closing = True
        ray.get(self.hub.close.remote())
        deadline = time.monotonic() + timeout_seconds
        for thread in self.threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    def _keep(self, slot: str) -> None:
        while not self.closing:
            try:
                self._trainer(slot).fit()
                return  # the hub let it go
            except Exception as error:
                if self.closing:
                    return
                self.errors.append(f"{slot}: {type(error).__name__}: {str(error)[:300]}")
                group = ray.get(self.hub.group.remote(slot))
                if group is not None:  # a controller that died leaves it behind, and the slot's CPUs with it
                    ray.util.remove_placement_group(group)
                time.sleep(2.0)

    def _trainer(self, slot: str) -> TorchTrainer:
        shape = self.shape
        resources = {"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {})
        return TorchTrainer(
            serve,
            train_loop_config={"hub": self.hub, "slot": slot, "work": self.work, "recycle_after": self.recycle_after},
            # gloo beside nccl: waiting for jobs and agreeing on flags must not occupy the GPU.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if shape.gpus else "gloo", timeout_s=600),
            scaling_config=ScalingConfig(
                num_workers=shape.workers, use_gpu=shape.gpus > 0, resources_per_worker=resources
            ),
            # Budgets belong to the job: the hub gives up on a poisonous one, the slot is replaced as often as needed.
            run_config=RunConfig(
                name=f"{slot}-{time.time_ns()}",
                storage_path=str(self.storage),
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
