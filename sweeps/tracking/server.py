"""The server: MLflow's own on a storage's database, from its start to its end, and which experiment a sweep is."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Experiment

from audioconfit import files
from audioconfit.errors import InputError
from sweeps import faults

HOST, PORT = "127.0.0.1", 5000
DATABASE = "mlflow.db"  # in a storage folder
PATIENCE_SECONDS = 180.0  # for its first answer: MLflow imports half a minute of modules on a busy machine
END_SECONDS = 5.0
ANSWER_SECONDS = 10.0  # a tracking server that was started beside the sweep needs a while
USER = re.compile(r"://[^/@]*@")
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def database_in(storage: Path) -> str:
    """The URI of the MLflow that a sweep keeps in its storage."""
    return f"sqlite:///{storage.absolute() / DATABASE}"


def database(storage: Path) -> str:
    """The same of a storage that a sweep has used. InputError: no sweep has run there."""
    if not (storage / DATABASE).is_file():
        raise InputError(
            f"There is no {DATABASE} in {storage.absolute()}: no sweep has run there. Name the folder that a sweep had "
            "as its --storage, or the server that it had as its --tracking-uri."
        )
    return database_in(storage)


def make_whole(uri: str) -> None:
    """A new SQLite database gets MLflow's tables in one piece: a driver that is killed among MLflow's many changes to
    them leaves nothing that MLflow cannot open.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.parent.is_dir() and not (path.exists() and path.stat().st_size):
        made = path.with_name(f".{uuid.uuid4().hex}-{path.name}")  # MLflow keeps connections by the name
        try:
            MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments()
            with files.whole(path) as temporary:
                made.rename(temporary)
        finally:
            made.unlink(missing_ok=True)


def check_answer(uri: str) -> None:
    """InputError where a tracking server, or the server of a database, does not answer: MLflow itself would try for
    minutes, without a word.
    """
    try:
        if uri.startswith("http"):
            _ask(uri)
        elif (port := DATABASE_PORTS.get(uri.partition(":")[0].partition("+")[0])) and (at := urlsplit(uri)).hostname:
            socket.create_connection((at.hostname, at.port or port), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, HTTPException) as error:  # unreachable, or no address at all
        raise InputError(
            f"MLflow at {faults.masked(uri)} does not answer ({getattr(error, 'reason', error)}). Start the server, or "
            "name another with --tracking-uri; without it the sweep keeps its own database."
        ) from None


def _ask(uri: str) -> None:
    address = USER.sub("://", uri.rstrip("/"))  # a server tells anybody that it is there
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with urlopen(f"{address}/health", timeout=max(1.0, deadline - time.monotonic())):
                return
        except HTTPError:
            return  # an answer
        except (OSError, ValueError, HTTPException):
            if time.monotonic() > deadline - 1.0:
                raise
            time.sleep(0.5)


def experiment(uri: str, name: str | None) -> str:
    """The id of a sweep's experiment; without a name that of the sweep that began last.

    Raises:
        InputError: there is none, or this is no database of MLflow's.
    """
    check_answer(uri)
    shown = faults.masked(uri)
    try:
        found = [one for one in MlflowClient(tracking_uri=uri).search_experiments() if one.experiment_id != "0"]
    except Exception as error:  # whatever a server, a network or a damaged file can do
        raise InputError(
            f"MLflow at {shown} cannot be read ({faults.masked(_first_line(error))}). Name another storage."
        ) from None
    mine = [one for one in found if name in (None, one.name)]
    if not mine:
        known = ", ".join(sorted(one.name for one in found)) or "none at all"
        raise InputError(f"MLflow at {shown} has no sweep {name or ''}; it has {known}. Choose one with --name.")
    return str(max(mine, key=_age).experiment_id)


def _age(one: Experiment) -> int:
    return int(one.creation_time or 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def free_port(asked: int | None) -> int:
    """The port that was asked for, else the first free one from 5000 on. InputError: it is taken."""
    for port in [asked] if asked else range(PORT, PORT + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return port
            except (OSError, OverflowError):
                continue
    raise InputError(f"--port {asked or PORT}: It is taken or no port; name another one, or none to have one chosen.")


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    address: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def running(uri: str, port: int) -> Iterator[Served]:
    """MLflow's server on this database, for as long as the block lasts; once it answers.

    Raises:
        InputError: it ended or did not answer; with its last words.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", HOST]
    with tempfile.TemporaryFile("w+") as said:
        # A session of its own: Ctrl-C is ours, and ends all of its processes at once.
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Served(_address(process, port, said), process)
        finally:
            _end(process)


def _address(process: "subprocess.Popen[bytes]", port: int, said: IO[str]) -> str:
    address = f"http://{HOST}:{port}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"{address}/health", timeout=5):
                return address
        except OSError:
            time.sleep(0.5)
    said.seek(0)
    last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
    raise InputError(
        f"MLflow's server did not start at {address} ({last}). Try another --port, or look at the database."
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server and the processes that it started, which are a group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
