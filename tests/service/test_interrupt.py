"""Signals: each winds a sweep down, whoever else wants to handle it, and the exit code says which it was."""

import signal
import threading

import pytest

from sweeps import interrupt
from sweeps.cluster import joining


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_winds_down_once_and_is_the_exit_code(number: int, code: int) -> None:
    inherited, winding = signal.signal(number, signal.SIG_DFL), threading.Event()  # nohup's own is to be ignored
    try:
        with interrupt.on_interrupt(winding.set) as pressed:
            signal.raise_signal(number)
            assert winding.wait(10.0)
            assert pressed.is_set()
            if number != signal.SIGINT:
                winding.clear()
                signal.raise_signal(number)  # whoever ends us may say so twice
                assert not winding.wait(0.2)
        assert interrupt.exit_code() == code
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_before_there_is_anything_to_wind_down_a_signal_ends_the_start() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt.raised():
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.exit_code() == 143


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.on_interrupt(lambda: pytest.fail("wound down")) as pressed:
            signal.raise_signal(signal.SIGHUP)
            assert not pressed.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_winds_down_though_the_shell_that_started_us_behind_itself_ignores_it() -> None:
    before, winding = signal.signal(signal.SIGINT, signal.SIG_IGN), threading.Event()
    try:
        with interrupt.on_interrupt(winding.set):
            signal.raise_signal(signal.SIGINT)
            assert winding.wait(10.0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_rays_own_handler_does_not_take_the_place_of_ours() -> None:
    winding = threading.Event()
    with interrupt.on_interrupt(winding.set):
        with joining._own_handlers():
            signal.signal(signal.SIGTERM, lambda number, frame: None)  # as ray.init does
        signal.raise_signal(signal.SIGTERM)
        assert winding.wait(10.0)
