"""Servers that sweeps write to, real ones: MLflow's, and Debian's PostgreSQL."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

USER, PASSWORD = "sweeper", "s3cr3t-of-a-test"
PATIENCE_SECONDS = 300.0  # MLflow imports a minute of modules where other tests run beside this one


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def mlflow_server(folder: Path, port: int, *, store: str | None = None) -> Iterator[None]:
    """A real tracking server on the database `store`, which is gone at once when the block ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store or f"sqlite:///{folder / 'served.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    with (folder / "server").open("a") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5.0):
                break
            time.sleep(0.5)
        assert process.poll() is None, (folder / "server").read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class PostgreSQL:
    """A server that asks for a password."""

    programs: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database's URL."""
        subprocess.run([self.programs / "createdb", "--maintenance-db", self.url("postgres"), database], check=True)
        return self.url(database)

    def ask(self, database: str, query: str) -> str:
        """The answer as text."""
        command: list[str | Path] = [
            self.programs / "psql",
            "--tuples-only",
            "--no-align",
            "--command",
            query,
            self.url(database),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def programs() -> Path | None:
    """Where Debian keeps PostgreSQL's own programs, the newest version's. None: it is not installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def postgresql(of: Path) -> Iterator[PostgreSQL]:
    """A server of one's own in a temporary folder on a free port; PostgreSQL refuses to run as root."""
    account: dict[str, Any] = {}
    if os.getuid() == 0:
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}
    folder, port = Path(tempfile.mkdtemp(prefix="postgresql-")), free_port()
    (folder / "password").write_text(PASSWORD)
    if account:
        owner = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    made: list[str | Path] = [
        of / "initdb",
        "--pgdata",
        folder / "data",
        "--username",
        USER,
        "--pwfile",
        folder / "password",
    ]
    made += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    server: list[str | Path] = [
        of / "postgres",
        "-D",
        folder / "data",
        "-p",
        str(port),
        "-c",
        f"unix_socket_directories={folder}",
    ]
    server += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    try:
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **account)
        with (folder / "said").open("w") as said:
            process = subprocess.Popen(server, stdout=said, stderr=said, cwd=folder, **account)
        try:
            found = PostgreSQL(of, port)
            _wait(found, process, folder / "said")
            yield found
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(60)
    finally:
        shutil.rmtree(folder)


def _wait(server: PostgreSQL, process: "subprocess.Popen[Any]", said: Path) -> None:
    command: list[str | Path] = [server.programs / "pg_isready", "--dbname", server.url("postgres")]
    until = time.monotonic() + PATIENCE_SECONDS
    while subprocess.run(command, capture_output=True).returncode:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.2)
