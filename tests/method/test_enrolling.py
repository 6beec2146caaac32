"""A class is added from a few recordings, without training, and the model stays one that everything else takes."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_classifiers import CLASSES, made, recording

import audioconfit
from audioconfit import __main__
from audioconfit.errors import InputError
from audioconfit.handover import enrolling
from audioconfit.handover.onnx_graph import Heard
from audioconfit.probe import Probe


def test_a_new_row_is_the_mean_embedding_as_long_as_the_other_rows_with_their_mean_bias() -> None:
    probe = Probe(
        ("a", "b"),
        weight=torch.tensor([[2.0, 0.0], [0.0, 4.0]]),  # 3 long on average
        bias=torch.tensor([0.5, 1.5]),
        mean=torch.tensor([1.0, 0.0]),
        deviation=torch.tensor([2.0, 1.0]),
    )
    # Standardised (-3, -4) and (-9, -12), whose mean (-6, -8) has the direction (-0.6, -0.8).
    grown = probe.with_class("c", torch.tensor([[-5.0, -4.0], [-17.0, -12.0]]))
    assert grown.classes == ("a", "b", "c")
    torch.testing.assert_close(grown.weight[2], torch.tensor([-1.8, -2.4]))
    assert grown.bias[2] == 1.0
    torch.testing.assert_close(grown.weight[:2], probe.weight)


def test_the_layers_that_a_probe_reads_are_mixed_for_the_new_class_too() -> None:
    plain = Probe(("a",), torch.ones(1, 2), torch.zeros(1), torch.zeros(2), torch.ones(2))
    mixing = Probe(("a",), torch.ones(1, 2), torch.zeros(1), torch.zeros(2), torch.ones(2), layers=torch.ones(2) / 2)
    layers = torch.tensor([[[1.0, 5.0], [3.0, -1.0]]])  # one clip, two layers, whose mean is (2, 2)
    assert (
        mixing.with_class("b", layers).weight[1].tolist()
        == plain.with_class("b", torch.full((1, 2), 2.0)).weight[1].tolist()
    )


def tone(folder: Path, number: int) -> Path:
    """What is no noise."""
    time = np.arange(9600) / 16_000
    path = folder / f"tone-{number}.wav"
    soundfile.write(path, 0.3 * np.sin(2 * math.pi * (300 + number) * time), 16_000)
    return path


def test_enrolled_recordings_are_named_by_each_other_and_the_folder_is_a_model(tmp_path: Path) -> None:
    tones = [tone(tmp_path, number) for number in range(5)]
    enrolled = enrolling.enrol(made(), " hum ", tones)
    assert (enrolled.clips, enrolled.found_again) == (5, 5)
    enrolled.model.save(tmp_path / "out")
    again = audioconfit.load(tmp_path / "out")
    assert again.classes == (*CLASSES, "hum")
    assert [said.labels for said in again.predict([tone(tmp_path, 9), recording(tmp_path)])] == [
        ("hum",),
        made().predict(recording(tmp_path))[0].labels,
    ]
    assert "added from 5 recordings" in (tmp_path / "out" / "README.md").read_text()
    assert again.scores == {}  # those of the old classes are not its own


def test_right_counts_recordings_whose_label_is_said(tmp_path: Path) -> None:
    model, path = made(), recording(tmp_path)
    samples, _ = soundfile.read(path, dtype="float32")
    label = model.predict(path)[0].labels
    assert enrolling.right(model, [Heard(samples, label), Heard(samples, ("nothing",))]) == 0.5


def test_what_cannot_be_enrolled_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path)
    for model, name, clips, said in (
        (made(), "  ", [path], "empty name"),
        (made(), "crow", [path], "has a class 'crow' already"),
        (made(several=True), "hum", [path], "label sets"),
        (made(), "hum", [], "no recording of 'hum'"),
        (made(), "hum", [path, tmp_path / "away.wav"], r"away\.wav: missing"),
    ):
        with pytest.raises(InputError, match=said):
            enrolling.enrol(model, name, clips)


def test_the_command_writes_a_folder_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made().save(tmp_path / "model")
    folder = tmp_path / "hums"
    folder.mkdir()
    for number in range(3):
        tone(folder, number)
    words = ["enrol", str(tmp_path / "model"), "hum", str(folder), "--out", str(tmp_path / "out")]
    assert __main__.main(words) == 0
    assert "knows hum too, from 3 recordings.\nBy the others alone 3 of the 3" in capsys.readouterr().out
    (folder / "broken.wav").write_bytes(b"no audio")
    assert __main__.main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "broken.wav: not audio" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
