"""What is printed of predictions, in the form that other tools read."""

import pytest

from audioconfit.classifier import Prediction
from audioconfit.handover import predicting


def test_rttm_has_a_line_per_label_and_stretch_and_no_blanks_in_names(capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        Prediction("calls/my crow.wav", ("crow",), {"crow": 0.9, "a wren": 0.1}, 0.0, 1.0),
        Prediction("calls/my crow.wav", ("crow", "a wren"), {"crow": 0.6, "a wren": 0.7}, 1.0, 2.25),
        Prediction("calls/my crow.wav", (), {"crow": 0.1, "a wren": 0.2}, 2.25, 3.0),
        Prediction("broken.wav", error="no audio"),
    ]
    assert predicting.write(said, "rttm", top_k=1) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "SPEAKER my_crow 1 0.000 1.000 <NA> <NA> crow <NA> <NA>",
        "SPEAKER my_crow 1 1.000 1.250 <NA> <NA> crow <NA> <NA>",
        "SPEAKER my_crow 1 1.000 1.250 <NA> <NA> a_wren <NA> <NA>",
    ]
    assert all(len(line.split()) == 10 for line in printed.out.splitlines())
    assert "broken.wav: no audio" in printed.err
