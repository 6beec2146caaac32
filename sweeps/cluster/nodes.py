"""Nodes: what each node of the cluster sees and runs, told by a task on each; it takes no CPU from anybody."""

import hashlib
import os
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import audioconfit
import sweeps
from audioconfit.errors import InputError
from sweeps import faults

ANSWER_SECONDS = 120.0  # a node under load takes half a minute to start a process
PACKAGES = ("torch", "torchaudio", "transformers", "ray", "optuna", "mlflow")


@dataclass(frozen=True)
class Node:
    """One node's account of itself."""

    name: str  # host name and address
    versions: dict[str, str]  # of Python, the packages and our own code, whose version is its hash
    gpus: int  # that Ray hands out here
    usable_gpus: int  # that torch finds here
    unseen: tuple[Path, ...]  # folders of the driver that are missing or other ones here
    unwritable: str | None  # why nothing can be written to the storage


def look(shared: Path, seen: Sequence[Path] = (), *, wait_seconds: float = ANSWER_SECONDS) -> list[Node]:
    """Every node that is up, the driver's first.

    Args:
        shared: the storage folder; a node must see it and be able to write to it.
        seen: more folders, such as those of recordings, that a node must see.

    Raises:
        InputError: a node does not answer.
    """
    up = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: node["NodeID"] != ray.get_runtime_context().get_node_id(),
    )
    task: Any = ray.remote(num_cpus=0, max_retries=1)(_account)
    with _marked(shared) as marker:
        wanted = {folder: _names(folder) for folder in seen}
        accounts = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                marker, wanted, int(node["Resources"].get("GPU", 0))
            )
            for node in up
        ]
        ray.wait(accounts, num_returns=len(accounts), timeout=wait_seconds)
        return [_answer(node, account) for node, account in zip(up, accounts, strict=True)]


def check_shared(shared: Path, seen: Sequence[Path]) -> None:
    """InputError where a node does not see what the driver sees; a single node sees all."""
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    blind: dict[Path, list[str]] = {}
    problems = []
    for node in look(shared, seen):
        for folder in node.unseen:
            blind.setdefault(folder, []).append(node.name)
        if node.unwritable and shared not in node.unseen:
            problems.append(f"{node.name} cannot write to {shared} ({node.unwritable}); mount it writable there")
    problems += [faults.not_shared(folder, ", ".join(names)) for folder, names in blind.items()]
    if problems:
        raise InputError("\n".join(problems))


def _answer(node: dict[str, Any], account: Any) -> Node:
    try:
        answered: Node = ray.get(account, timeout=0)
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) does not answer: "
            f"{type(error).__name__}; is it up, with the same environment installed?"
        ) from None
    return answered


def _account(marker: Path, wanted: dict[Path, str], gpus: int) -> Node:
    there = marker.exists()
    unseen = [folder for folder, names in wanted.items() if _names(folder) != names]
    return Node(
        name=f"{socket.gethostname()} ({ray.util.get_node_ip_address()})",
        versions=versions(),
        gpus=gpus,
        usable_gpus=_usable_gpus() if gpus else 0,
        unseen=(*([] if there else [marker.parent]), *unseen),
        unwritable=_why_unwritable(marker.parent) if there else None,
    )


def versions() -> dict[str, str]:
    """What must be equal on all nodes."""
    return {
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "audioconfit": _code(),
    }


def _code() -> str:
    """The hash of our own source files: two checkouts of one version differ."""
    found = hashlib.sha256()
    for package in (audioconfit, sweeps):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            found.update(f"{package.__name__}/{file.relative_to(folder)}".encode() + file.read_bytes())
    return found.hexdigest()[:8]


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file that only this folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".seen.{uuid.uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def _names(folder: Path) -> str:
    """What a folder holds, or a file is, in short; "" where there is neither."""
    if folder.is_file():
        return str(folder.stat().st_size)
    return hashlib.sha256("\n".join(sorted(os.listdir(folder))).encode()).hexdigest() if folder.is_dir() else ""


def _why_unwritable(folder: Path) -> str | None:
    probe = folder / f".writable.{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        return str(error.strerror)
    return None


def _usable_gpus() -> int:
    """In a process of its own: Ray hides the GPUs from a task that asks for none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(count, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    return int(done.stdout) if done.returncode == 0 else 0
