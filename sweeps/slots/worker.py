"""The worker's side of a warm slot: one long-lived Ray Train run that serves one job after the other, on all its ranks.

A TorchTrainer per trial costs about 19 s of process starts and leaks its placement group when Tune stops it early; a
slot pays once and changes jobs in tenths of a second. What a job does is not known here: `work(assignment, tell)` is
given.
"""

import gc
import os
import pickle
import socket
import traceback
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
import torch.distributed as dist
from ray import train

from audioconfit import memory
from sweeps import faults
from sweeps.slots import blame
from sweeps.slots.bench import Fault
from sweeps.slots.job_queue import CLOSED, Job, RankProcess
from sweeps.slots.slot import Slot, Work

Value = TypeVar("Value")

HARMLESS = (Fault.RECIPE, Fault.STORAGE, Fault.NODE)  # after these the process is reusable; after others it is replaced


def serve(slot: Slot) -> None:
    """The train loop of a slot. Ends when the queue is closed; raises only to have Train replace the worker group."""
    work = slot.find_work()
    rank, world = train.get_context().get_world_rank(), train.get_context().get_world_size()
    process = RankProcess(ray.get_runtime_context().current_actor, os.getpid(), socket.gethostname())
    if 0 < slot.gpus < 1 and torch.cuda.is_available():
        memory.share(slot.gpus)
    served = 0
    gc.freeze()  # the imported modules: half a million objects, and scanning them after each job took 0.3 s
    while True:
        slot.jobs.join(slot.name, rank, process)
        job = _from_rank_zero(slot.jobs.take(slot.name) if rank == 0 else None)
        if job is None:
            continue
        if not isinstance(job, Job):
            assert job == CLOSED
            return
        failure = _run(job, work, slot, rank, world)
        if failure:
            slot.jobs.fail(slot.name, job, failure.fault, failure.why)
        elif rank == 0:
            slot.jobs.finish(slot.name, job)
        served += 1
        if failure and world > 1:
            raise RuntimeError(f"One rank failed and the others may wait for it in a collective: {failure.why}")
        if failure and failure.fault not in HARMLESS:
            raise RuntimeError(f"The worker may be damaged by this error and is replaced: {failure.why}")
        if slot.recycle_after and served >= slot.recycle_after:
            raise RuntimeError(f"The worker is replaced on purpose after {served} jobs.")


@dataclass(frozen=True)
class Failure:
    """What ended a job, without its frames: those hold tensors, and so the GPU's memory."""

    why: str
    fault: Fault


def _run(job: Job, work: Work, slot: Slot, rank: int, world: int) -> Failure | None:
    """Runs one job. Returns what ended it; a collective that another rank's death broke is raised: it is not the job's
    fault.
    """

    def tell(step: int, metrics: dict[str, Any] | None) -> bool:
        return bool(_from_rank_zero(slot.jobs.report(slot.name, job, step, metrics) if rank == 0 else None))

    try:
        work(pickle.loads(job.work), tell)
        return None
    except Exception as error:
        if world > 1 and _collective_broke(error):
            raise
        traceback.clear_frames(error.__traceback__)
        fault = blame.of(error)
        said = fault in (Fault.STORAGE, Fault.NODE) and not faults.is_full(error)  # in a sentence of its own
        return Failure(str(error) if said else f"{type(error).__name__}: {error}", fault)
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
