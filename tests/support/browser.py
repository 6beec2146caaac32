"""Chromium without a window, driven by its own protocol over two pipes: what a person does with a page, and sees."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 120.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


class Page:
    """One tab."""

    def __init__(self, asks: int, answers: int) -> None:
        self.asks, self.answers, self.number, self.left = asks, answers, 0, b""
        self.session: str | None = None

    def ask(self, method: str, **words: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol; events in between are skipped."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": words}
        session = {"sessionId": self.session} if self.session else {}
        os.write(self.asks, json.dumps(asked | session).encode() + b"\0")
        while True:
            while b"\0" not in self.left:
                part = os.read(self.answers, 1 << 16)
                assert part, "Chromium has ended."
                self.left += part
            message, self.left = self.left.split(b"\0", 1)
            answer = json.loads(message)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found

    def open(self, address: str) -> None:
        """In a new tab."""
        target = self.ask("Target.createTarget", url=address)["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def value(self, script: str) -> Any:
        """What JavaScript in the page gives."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)["result"].get(
            "value"
        )

    def choose(self, element: str, file: Path) -> None:
        """A file in the dialogue of a file field."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        field = self.ask("DOM.querySelector", nodeId=root, selector=element)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=field, files=[str(file)])

    def wait(self, script: str) -> Any:
        """What JavaScript gives as soon as that is true."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            if found := self.value(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{script} is {self.value(script)!r}; the page: {self.value('document.body.innerText')!r}")


@contextmanager
def browsing(profile: Path, *flags: str) -> Iterator[Page]:
    """A browser for one test; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    (theirs, asks), (answers, theirs_too) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    words = [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
    shell = f'exec "$@" 3<&{theirs} 4>&{theirs_too}'
    with subprocess.Popen(
        ["bash", "-c", shell, "bash", *words],
        pass_fds=(theirs, theirs_too),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        os.close(theirs_too)
        try:
            yield Page(asks, answers)
        finally:
            os.close(asks)  # it ends with its pipe
            os.close(answers)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
