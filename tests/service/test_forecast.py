"""The forecast: what a sweep will cost, on a machine that has other work too."""

import time
from pathlib import Path

import makers
import pytest
from rich.console import Console
from torch import Tensor, nn

from audioconfit.encoders import Encoder
from sweeps.request import flags, forecast
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
    assert forecast._step_seconds(encoder, "cpu", 1) < 0.3 / forecast.CALIBRATION_ROWS / 3


def test_a_backbone_whose_weights_are_not_here_is_unknown_and_said_so(tmp_path: Path) -> None:
    assert forecast.pace("no/such-backbone-anywhere", tmp_path) is None
    known, unknown = makers.cell(), makers.cell(backbone="hubert-random")
    costs = {known.name: Forecast(4, 0, 3, "measured", 1.5, 1e6), unknown.name: Forecast(4, 0, 3, "unknown")}
    console = Console(record=True, width=80)
    report.show_plan(flags.of({"datasets": "tones", "trials": 4}), [known, unknown], [], costs, console)
    said = console.export_text()
    assert "2 cells, 8 trials, at most 1.5 hours of one slot, and 1 cell of unknown cost." in said


@pytest.mark.parametrize(("hours", "shown"), [(None, "?"), (0.5, "0.50")])
def test_an_unknown_cost_is_a_question_mark_and_never_a_number(hours: float | None, shown: str) -> None:
    assert report._costs(Forecast(4, 1, 3, "", hours, 1e6))[1] == shown
