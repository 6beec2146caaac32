"""Ctrl-C, SIGTERM (a spot machine's or a pod's last seconds) and SIGHUP (a closed terminal): each ends the sweep
cleanly; Ctrl-C a second time at once. None loses a result.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the shell's code for Ctrl-C: 128 and the signal's number
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_heard: list[int] = []  # signals are the process' own, and so is what it heard of them


def exit_code() -> int:
    """The shell's code for the signal that ended this process' sweep."""
    return 128 + _heard[0] if _heard else INTERRUPTED


@contextmanager
def on_interrupt(wind_down: Callable[[], None]) -> Iterator[threading.Event]:
    """Calls `wind_down` at the first signal, in a thread, for it may come in the middle of anything; sets the event."""
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if pressed.is_set():
            if number == signal.SIGINT:
                os._exit(INTERRUPTED)  # the journal and Optuna's storage are on disk; Ray's processes follow us
            return
        pressed.set()
        _heard[:] = [number]
        threading.Thread(target=wind_down, daemon=True).start()

    with _handled(press):
        yield pressed


@contextmanager
def raised() -> Iterator[None]:
    """Each signal raises KeyboardInterrupt while the block runs: before a sweep has anything to wind down."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        _heard[:] = [number]
        raise KeyboardInterrupt

    with _handled(raise_it):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGHUP, which nohup tells us to ignore, stays ignored; Ctrl-C does not, which shells have whatever they start
    behind themselves ignore, so that `kill -INT` ends a sweep in a script. Only the main thread has handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    wanted = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _leave_terminal() -> None:
    """What is written to a terminal that has gone is an error; it goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
