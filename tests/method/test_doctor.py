"""`audioconfit doctor`: sentences about this machine, from real steps."""

import os
import re

import pytest
import torch

from audioconfit import __main__ as command
from audioconfit import backbones, doctor, memory


def test_it_names_the_machine_and_foretells_an_epoch_from_real_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_names", lambda: ["wav2vec2-tiny"])
    assert command.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"torch {torch.__version__}" in told
    assert f"{len(os.sched_getaffinity(0))} core" in told
    assert "No GPU" in told or "GPU:" in told
    found = re.search(r"wav2vec2-tiny \(0\.\d M parameters\): (\d+) s of audio a second; .* takes (.*)\.", told)
    assert found is not None
    assert int(found[1]) > 0


def test_an_epoch_takes_its_audio_over_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "audio_seconds_per_second", lambda name, device: (25.0, 94_400_000))
    assert doctor._expected("wav2vec2", torch.device("cpu")) == (
        "  wav2vec2 (94.4 M parameters, random weights): 25 s of audio a second; an epoch of 1000 chunks of 3 s takes "
        "about 2 min."
    )


def test_every_backbone_is_measured_or_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measured(name: str, device: torch.device) -> str:
        tried.append(name)
        return f"  {name}: measured."

    monkeypatch.setattr(doctor, "_expected", measured)
    monkeypatch.setattr(memory, "free_bytes", lambda device: doctor.CPU_BYTES - 1)
    told = "\n".join(doctor.examine())
    assert tried == [name for name in backbones.BACKBONES if name.endswith("-tiny")]
    for name in ("wav2vec2", "hubert", "wavlm"):
        assert f"  {name}: not measured, for less than 4 GiB are free." in told
    tried.clear()
    assert "  wavlm: not measured, for the time was up" in "\n".join(doctor.examine(seconds=-1.0))
    assert not tried


def test_what_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("Missing" not in sentence for sentence in doctor._missing())
    monkeypatch.setattr(doctor, "OPTIONAL", ((("json", "no_such_module"), "singing", "pip install singing"),))
    assert list(doctor._missing()) == ["Missing for singing: no_such_module (pip install singing)."]


def test_no_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["doctor", "--seconds", "0"]) == 2
    assert "--seconds 0: choose more than 0." in capsys.readouterr().err
