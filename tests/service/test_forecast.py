"""The forecast: what a sweep will cost, on a machine that has other work too."""

import random
import time
from pathlib import Path

import left_sweeps
import makers
import pytest
from rich.console import Console
from torch import Tensor, nn

from audioconfit import audio, splits
from audioconfit.encoders import Encoder
from sweeps.request import flags, forecast
from sweeps.request.datasets import Task
from sweeps.request.forecast import Forecast
from sweeps.terminal import report


class Waiting(nn.Module):
    """An encoder that stands still for a moment, as one whose core is given to others does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16_000, 8)

    def forward(self, waveforms: Tensor) -> Tensor:
        time.sleep(0.3)
        return self.embed(waveforms)


def test_waiting_for_a_core_is_not_forecast() -> None:
    encoder: Encoder = Waiting()  # type: ignore[assignment]
    assert max(forecast._step_seconds(encoder, "cpu", 1)) < 0.3 / forecast.CALIBRATION_ROWS / 3


def test_the_range_is_from_the_fastest_to_the_slowest_step_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [9.0, 2.0, 4.0, 3.0]  # seconds; the first step warms up
    times = iter([0.0, 9.0, 9.0, 11.0, 11.0, 15.0, 15.0, 18.0])
    monkeypatch.setattr(time, "process_time", lambda: next(times))
    encoder: Encoder = Waiting()  # type: ignore[assignment]
    steps = forecast._step_seconds(encoder, "cpu", 2)  # two threads share the CPU time
    assert steps == [one / 2 / forecast.CALIBRATION_ROWS for one in durations[1:]]


def test_earlier_trials_give_the_range_of_most_of_them() -> None:
    paces = [float(number) for number in range(1, 12)]  # 1 to 11 seconds per second of audio
    low, high, source = forecast._of_trials(paces)
    assert (low, high) == (2.0, 10.0)
    assert "11 earlier trials" in source
    assert forecast._of_trials([3.0])[:2] == (3.0, 3.0)
    assert "no range" in forecast._of_trials([3.0])[2]


def test_what_trials_took_lies_in_the_forecast_range() -> None:
    """Trials of a simulated machine, each a second of audio in 0.5 to 1.5 seconds: the plan made of the first ten holds
    for the next forty in nine of ten draws.
    """
    held = 0
    for seed in range(20):
        draw = random.Random(seed)
        low, high, _ = forecast._of_trials([draw.uniform(0.5, 1.5) for _ in range(10)])
        held += 40 * low <= sum(draw.uniform(0.5, 1.5) for _ in range(40)) <= 40 * high
    assert held >= 18


def test_a_cell_takes_the_range_of_its_backbones_pace(tmp_path: Path) -> None:
    recordings = left_sweeps.prepared(tmp_path)
    waveforms = audio.load(recordings)
    plan = flags.of({"datasets": "tones", "trials": 4})
    task = Task("tones", recordings, waveforms, splits.split(waveforms.corpus), 1, [])
    cell = makers.cell(fingerprint=waveforms.fingerprint)
    found = forecast._of(plan, cell, task, forecast.Pace(1.0, 3.0, 10, 8, "steps"), 0)
    assert found.slot_hours is not None
    assert found.slot_hours[1] == pytest.approx(3 * found.slot_hours[0])


def test_a_backbone_whose_weights_are_not_here_is_unknown_and_said_so(tmp_path: Path) -> None:
    assert forecast.pace("no/such-backbone-anywhere", tmp_path) is None
    known, unknown = makers.cell(), makers.cell(backbone="hubert-random")
    costs = {known.name: Forecast(4, 0, 3, "measured", (0.5, 1.5), 1e6), unknown.name: Forecast(4, 0, 3, "unknown")}
    console = Console(record=True, width=80)
    report.show_plan(flags.of({"datasets": "tones", "trials": 4}), [known, unknown], [], costs, console)
    said = console.export_text()
    assert "2 cells, 8 trials, between 0.50 and 1.50 hours of one slot, and 1 cell of unknown cost." in said
    assert "hours: measured" in said
    assert report._duration([Forecast(4, 0, 3, "unknown")]) == "of unknown cost"
    assert report._duration([Forecast(4, 0, 3, "one trial", (0.5, 0.5), 1e6)]) == "about 0.50 hours of one slot"


@pytest.mark.parametrize(("hours", "shown"), [(None, "?"), ((0.25, 0.5), "0.50")])
def test_an_unknown_cost_is_a_question_mark_and_never_a_number(hours: tuple[float, float] | None, shown: str) -> None:
    assert report._costs(Forecast(4, 1, 3, "", hours, 1e6))[1] == shown
