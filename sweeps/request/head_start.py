"""A head start: what a plan asks of the slots, and whether they may start before its data is looked at.

Ray, a slot's Train controller and its worker, which imports torch, take as long to start as the driver takes to import
torch, transformers and MLflow, to prepare recordings and to open its databases. The command of a new sweep does both at
a time. What is refused early stays so: where anything that can be seen now is amiss, or must be asked of a server,
nothing starts before it is looked at.
"""

import os
from pathlib import Path

from huggingface_hub import constants

from audioconfit import backbones
from audioconfit.corpora import CORPORA
from audioconfit.errors import InputError
from sweeps.cluster import joining
from sweeps.cluster.capacity import SlotRequest
from sweeps.cluster.warm_slots import WarmSlots
from sweeps.request.plan import Plan

WORK = "sweeps.trial.work:work"  # by name: its module imports torch


def slots(plan: Plan, *, ends_with_process: bool = False) -> WarmSlots:
    """The plan's slots, none of them started."""
    request = SlotRequest(plan.slots, plan.workers_per_trial, plan.cpus_per_worker, plan.gpus_per_worker)
    return WarmSlots(
        request,
        WORK,
        plan.folder,
        patience_seconds=plan.patience_seconds,
        wait_seconds=plan.wait_seconds,
        ends_with_process=ends_with_process,
    )


def job_count(plan: Plan) -> int:
    """How many trials the plan may run."""
    return plan.trials * len(plan.datasets) * len(plan.backbones) * len(plan.methods)


def may_begin(plan: Plan) -> bool:
    """Whether slots may start now: the sweep is new (one that has begun may be done, or refuse to go on), runs on this
    machine, asks no server, and has its data and weights here.
    """
    if plan.dry_run or plan.download or plan.tracking_uri or plan.optuna_storage or joining.address() is not None:
        return False
    if plan.workers_per_trial > 1:  # their slots import torch here, and two threads must not do so at a time
        return False
    try:
        joining.check_temporary()
        return _is_new(plan.folder) and _has_all(plan)
    except (InputError, OSError):  # a folder that may not be looked into, or a name that none can have
        return False


def _is_new(folder: Path) -> bool:
    above = next(parent for parent in folder.parents if parent.exists())
    return not folder.exists() and above.is_dir() and os.access(above, os.W_OK)


def _has_all(plan: Plan) -> bool:
    return all(map(_has_weights, plan.backbones)) and (
        plan.demo or all(_is_there(name, plan) for name in plan.datasets)
    )


def _is_there(name: str, plan: Plan) -> bool:
    """Whether a dataset is own data that exists, or a known corpus with a folder of any content."""
    return Path(name).exists() if name not in CORPORA else plan.data.is_dir()


def _has_weights(name: str) -> bool:
    """Whether a backbone is a folder with a configuration, or one of the package's or of the hub's cache."""
    source = backbones.find(name).source
    if source.startswith(("package:", "random:")):
        return True
    if Path(source).is_dir():
        return (Path(source) / "config.json").is_file()
    return (Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}").is_dir()
