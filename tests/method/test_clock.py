"""The clock, with hand-made seconds."""

from collections.abc import Iterator

import pytest

from audioconfit.clock import PHASES, Clock


def clock(*seconds: float) -> Clock:
    """One that reads these times, one after the other."""
    times: Iterator[float] = iter(seconds)
    return Clock(lambda: next(times))


def test_a_phase_within_another_is_not_counted_twice() -> None:
    one = clock(0, 1, 4, 6, 10, 10)  # made, training from 1, validation from 4 to 6, training's end, read
    with one.phase("training"), one.phase("validation"):
        pass
    expected = {"rest": 1.0, "training": 3.0 + 4.0, "validation": 2.0, "extraction": 0, "probe": 0, "waiting": 0}
    assert one.seconds() == expected


def test_shares_add_up_to_one_also_of_a_phase_that_failed() -> None:
    one = clock(0, 0, 3, 4)
    with pytest.raises(ZeroDivisionError), one.phase("probe"):
        raise ZeroDivisionError
    assert one.shares() == dict.fromkeys(PHASES, 0.0) | {"probe": 0.75, "rest": 0.25}


def test_a_clock_without_time_is_all_rest() -> None:
    assert clock(5, 5).shares() == dict.fromkeys(PHASES, 0.0) | {"rest": 1.0}


def test_clips_per_second_are_of_training_alone() -> None:
    one = clock(0, 0, 2, 4, 5, 5)  # of 5 seconds 3 are training
    with one.phase("training"), one.phase("waiting"):
        one.clips += 12
    assert one.clips_per_second() == 12 / 3
    assert clock(0, 1).clips_per_second() is None
