"""Joining: the cluster whose address is given or whose head this is, else an embedded Ray on this machine, which nobody
else reaches: it listens on the loopback interface, and its token is in memory only.
"""

import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, services
from ray.exceptions import RayActorError

from audioconfit.errors import InputError
from sweeps.faults import Halted

# A socket's path has 107 characters at most, of which Ray's own folders take those of
# "/session_2026-11-26_22-07-41_631369_1234567" and "/sockets/plasma_store".
LONGEST_FOLDER = 107 - 43 - 21
START_ATTEMPTS = 3
TOKEN = secrets.token_hex(32)  # of this process' embedded Ray, which else keeps one where others can read it
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
OBJECT_STORE_BYTES = 200 * 1024**2  # nothing large travels through it: corpora and stages are files


@contextmanager
def join(embedded_cpus: int | None = None) -> Iterator[None]:
    """Ray runs, quietly, while the block runs. An embedded Ray ends with it; a cluster is left as it was."""
    silence()
    if ray.is_initialized():  # started by a notebook or a test, and not ours to end
        yield
        return
    if address():
        with _own_handlers():
            ray.init(address=address(), log_to_driver=False, logging_level=logging.ERROR)
    else:
        _start(embedded_cpus)
    try:
        yield
    finally:
        ray.shutdown()
        if os.environ.get(TOKEN_VARIABLES[0]) == TOKEN:
            del os.environ[TOKEN_VARIABLES[0]]  # no cluster that is joined later has it


def _start(cpus: int | None) -> None:
    """An embedded Ray, tried again where a busy machine did not start it within the 30 s that Ray itself waits.

    Raises:
        Halted: it never came up.
    """
    for _ in range(START_ATTEMPTS):
        try:
            with _own_handlers(), _alone():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except KeyboardInterrupt:
            ray.shutdown()
            raise
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise Halted(
        f"Ray did not start within 30 s, {START_ATTEMPTS} times in a row: this machine is busy, or short of memory. "
        "Run the same command again when it has room; what is done is kept."
    )


@contextmanager
def _alone() -> Iterator[None]:
    """A Ray that starts in the block is reached by this machine's processes only, and by those that have its token."""
    if not any(os.environ.get(name) for name in TOKEN_VARIABLES):
        os.environ[TOKEN_VARIABLES[0]] = TOKEN
    spread = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # whether a node may have others: it takes the address of all interfaces
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = spread


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray puts a handler of its own for SIGTERM in the place of ours, and ends in an abort."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


def temporary() -> str:
    """Where Ray keeps its sessions on this machine, by the variables that it reads."""
    return os.path.join(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")), "ray")


def check_temporary() -> None:
    """InputError where Ray's temporary folder is too deep for the sockets that it keeps there."""
    folder = temporary()
    if len(folder) > LONGEST_FOLDER:
        raise InputError(
            f"Ray would keep its sockets below {folder}, whose name is too long for them ({len(folder)} characters, "
            f"at most {LONGEST_FOLDER}). Set RAY_TMPDIR to a short folder, such as /tmp."
        )


def address() -> str | None:
    """The cluster to join: RAY_ADDRESS, else the cluster that `ray start` has made this machine part of. None where
    there is none, or where RAY_ADDRESS is "local".
    """
    asked = os.environ.get("RAY_ADDRESS")
    if asked:
        return None if asked == "local" else asked
    started = services.find_bootstrap_address(None)  # its file outlives the cluster
    return started if started in services.find_gcs_addresses() else None


def map_on_nodes(
    function: Callable[[int], int], numbers: Iterable[int], *, wait_seconds: float | None = None
) -> Iterator[int]:
    """`map` on the cluster's cores, for preparing corpora; yields results as they are ready.

    Raises:
        Halted: no result came for `wait_seconds`.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=5)(lambda number: function(number))  # Ray takes no partial
    waiting = [task.remote(number) for number in numbers]
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=wait_seconds)
        if not ready:
            free = ray.available_resources().get("CPU", 0)
            raise Halted(
                f"No part of the recordings was decoded for {wait_seconds:.0f} s: the cluster has "
                f"{ray.cluster_resources().get('CPU', 0):g} CPU, {free:g} of them free. Free some or wait longer "
                "(--wait), then run the same command again."
            )
        yield from ray.get(ready)


def silence() -> None:
    """Quiets Ray, MLflow and the like, whose output is noise beside the live table; errors still come through."""
    for name in ("ray", "ray.tune", "ray.train", "ray._private", "mlflow", "alembic", "optuna", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The tracker reports what MLflow's store complains of; nobody reads Tune's snapshots.
    for name in ("mlflow.store.db.utils", "ray.tune.execution.experiment_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_is_no_death)
    warnings.filterwarnings("ignore", module=r"ray\..*|mlflow\..*|optuna\..*")


def _is_no_death(record: logging.LogRecord) -> bool:
    """Tune shows the traceback of a trial whose own process was killed, though the trial goes on with another."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, RayActorError) or error.actor_init_failed  # an error of ours as it was made
