"""Ctrl-C: the first press ends the sweep cleanly with everything saved, the second at once; neither loses what was
told.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the shell's code for it


class Interrupted(Exception):  # noqa: N818  (what happened, not what kind of thing it is)
    """The user pressed Ctrl-C; all that ran goes on at the next start."""


class Halted(Exception):  # noqa: N818
    """The sweep cannot go on here and now: says why and the way out. All that ran goes on at the next start."""


@contextmanager
def on_interrupt(wind_down: Callable[[], None]) -> Iterator[threading.Event]:
    """Calls `wind_down` (in a thread: the press may come in the middle of anything) at the first press. The event says
    so.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            os._exit(INTERRUPTED)  # the journal and Optuna's storage are on disk; Ray's processes follow their driver
        pressed.set()
        threading.Thread(target=wind_down, daemon=True).start()

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
