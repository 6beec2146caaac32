"""Forking: a process that has imported everything, and runs each start of a command as a child of its own, which
begins where an interpreter's ten seconds of imports end.

`Forks()` starts it. It reads one order in JSON a line, forks, says the child's id, and then how the child ended.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import drivers

LONGEST_SECONDS = 600.0  # of a child, on a machine with ten times the load that it is made for
TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """One child of the process that forks."""

    def __init__(self, forks: "Forks", pid: int, said: Path) -> None:
        self.forks, self.pid, self.said = forks, pid, said
        self.code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None: it runs."""
        if self.code is None and select.select([self.forks.answers], [], [], 0)[0]:
            self.code = int(self.forks.answer()["code"])
        return self.code

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """The same, when it has ended."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.tell(signal.SIGKILL)
                raise AssertionError(f"a child did not end in {seconds:.0f} s; it said:\n{self.words()}")
            time.sleep(0.02)
        assert self.code is not None
        return self.code

    def cpu_seconds(self) -> float:
        """What it has taken so far, on however busy a machine."""
        with suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        return 0.0

    def tell(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has, and its end is not said yet
                os.kill(self.pid, number)

    def words(self) -> str:
        return self.said.read_text()


class Forks:
    """The process that forks, for as long as the block runs."""

    def __enter__(self) -> "Forks":
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=drivers.environment(MLFLOW_DISABLE_TELEMETRY="true", MPLBACKEND="Agg"),
            bufsize=0,
        )
        assert self.process.stdout is not None
        self.answers, self.rest = self.process.stdout.fileno(), b""
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def start(self, do: str, said: Path, **words: Any) -> Child:
        """A child that does it; what it prints goes to the end of `said`."""
        self._order({"do": do, "said": str(said), **words})
        return Child(self, int(self.answer()["pid"]), said)

    def learn(self, modules: list[str]) -> None:
        """Imports these too, for all further children."""
        self._order({"do": "learn", "modules": modules})
        self.answer()

    def answer(self) -> dict[str, Any]:
        while b"\n" not in self.rest:
            part = os.read(self.answers, 1 << 16)
            assert part, "the process that forks has ended"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _order(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")


# The process itself.


def _serve() -> None:
    import quick_sweeps  # everything

    answers = os.dup(1)
    os.dup2(2, 1)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "learn":
            for name in order["modules"]:
                with suppress(BaseException):
                    importlib.import_module(name)
            quick_sweeps.warm()
            gc.collect()
            gc.freeze()
            os.write(answers, b"{}\n")
            continue
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            _live(order)
        os.write(answers, json.dumps({"pid": pid}).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        os.write(answers, json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def _live(order: dict[str, Any]) -> None:
    """The child, to its end: threads that wait for ever do not hold it."""
    import quick_sweeps

    code = 1
    try:
        os.setsid()
        out = os.open(order.pop("said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((nowhere, 0), (out, 1), (out, 2)):
            os.dup2(descriptor, target)
        code = getattr(quick_sweeps, order.pop("do"))(**order)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
