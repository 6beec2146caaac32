"""Ctrl-C: the first press ends the sweep cleanly, the second at once; neither loses a result."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the shell's code for it


@contextmanager
def on_interrupt(wind_down: Callable[[], None]) -> Iterator[threading.Event]:
    """Calls `wind_down` at the first press, in a thread, for the press may come in the middle of anything; sets the
    event.
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
