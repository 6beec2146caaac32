"""The laptop: a home of its own, and the commands that a user types there, from the repository's folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass
class Laptop:
    """`settings` are environment variables on top of this machine's."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.home / "tmp").mkdir(parents=True)
        self.run("ray", "get-auth-token", "--generate")
        (self.home / ".ray" / "auth_token").chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        here = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
        own = {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
            "TMPDIR": str(self.home / "tmp"),  # where Ray keeps what it has found out about an account
            "RAY_TMPDIR": str(self.home / "tmp"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "COLUMNS": "100",
        }
        return here | own | self.settings

    def start(self, file: Path) -> None:
        """As sweeps/cluster/README.md says: look the cluster's file over, then `ray up`."""
        self.run("python", "sweeps/preflight.py", str(file))
        self.run("ray", "up", "-y", str(file))

    def run(self, *command: str, timeout: float = 180.0) -> str:
        """What it said; AssertionError where it failed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @contextmanager
    def open(self, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A command that stays, such as one that forwards a port."""
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(10)


def differences(before: object, after: object, path: str = "") -> Iterator[str]:
    """The paths in which two files' contents differ, such as `provider.head_ip`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}.{number}")
    elif before != after:
        yield path


def without_installing(commands: list[str], instead: str) -> list[str]:
    """Setup commands as they are, but for those that install: of these the first becomes another, the rest nothing."""
    marks = ("apt-get", " -m venv ", "pip install", "exportfs")
    installs = [any(mark in command for mark in marks) for command in commands]
    first = installs.index(True)
    return [
        instead if number == first else "true" if install else command
        for number, (command, install) in enumerate(zip(commands, installs, strict=True))
    ]


def until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Returns as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.2)
