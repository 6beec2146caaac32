"""Listening to mistakes: which clips are heard and suspected, on six clips that can be worked out by hand."""

import io
from pathlib import Path

import makers
import pandas as pd
import pytest
import soundfile
import torch

from audioconfit import audio, corpora
from audioconfit.predictions import Predictions
from sweeps.trial import listening
from sweeps.trial.listening import Said

CLASSES = ("a<b", "c", "d")
KEYS = tuple(f"pitch-{number}/{take}.wav" for number in range(3) for take in range(2))


def said() -> Said:
    """Six clips, two of each class. Clip 2 is taken for d by probe and neighbours, clip 4 for c by the probe alone, and
    clip 5 for c more surely.
    """
    truth, taken, near = [0, 0, 1, 1, 2, 2], [0, 0, 2, 1, 1, 1], [0, 0, 2, 1, 2, 2]
    sure = torch.tensor([5.0, 5.0, 2.0, 5.0, 1.0, 3.0])
    logits = torch.nn.functional.one_hot(torch.tensor(taken), 3) * sure[:, None]
    votes = torch.nn.functional.one_hot(torch.tensor(near), 3).float()
    told = Predictions(KEYS, ("s0", "s0", "s1", "s1", None, "s0"), torch.tensor(truth), logits)
    return listening.of(told, CLASSES, votes, None)


def test_the_most_surprising_mistakes_come_first_and_only_shared_ones_are_suspected() -> None:
    assert listening.worst(said()) == [5, 2, 4]
    assert said().suspected.tolist() == [False, False, True, False, False, False]


def test_a_suspected_label_is_heard_beside_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MOST_CLIPS", 1)
    assert listening.worst(said()) == [5, 2]


def test_label_sets_are_right_where_all_labels_are() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    logits = torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, -1.0]])
    told = Predictions(("x", "y"), (None, None), labels, logits)
    found = listening.of(told, CLASSES, logits, torch.zeros(3))
    assert found.wrong.tolist() == [False, True]
    assert listening.table(found)["truth"].tolist() == ["a<b", "a<b, c"]


def test_scores_by_class_and_group() -> None:
    by_class = listening.by_class(said()).set_index("class")
    assert by_class.loc["c"].tolist() == pytest.approx([2, 1 / 2, 1 / 3, 2 / 5])  # clips, recall, precision, F1
    assert by_class.loc["d", "recall"] == 0
    assert listening.by_group(said()).to_dict("list") == {"group": ["s1", "s0"], "clips": [2, 3], "right": [0.5, 2 / 3]}


def test_what_is_left_can_be_read_and_heard(tmp_path: Path) -> None:
    corpus = corpora.load(str(makers.tones(tmp_path / "tones", clips=2)), tmp_path)
    audio.prepare(corpus, tmp_path / "prepared")
    waveforms = audio.load(tmp_path / "prepared")
    listening.write(said(), waveforms, tmp_path / "left")
    table = pd.read_parquet(tmp_path / "left" / "predictions.parquet")
    assert table["key"].tolist() == list(KEYS)
    assert table["prediction"].tolist() == ["a<b", "a<b", "d", "c", "c", "c"]
    assert table.filter(like="probability of").sum(axis=1).tolist() == pytest.approx([1] * 6)
    heard = sorted((tmp_path / "left" / "mistakes").iterdir())
    assert [path.name for path in heard] == ["01.flac", "02.flac", "03.flac"]
    samples, rate = soundfile.read(io.BytesIO(heard[0].read_bytes()), dtype="int16")
    assert rate == audio.SAMPLE_RATE
    assert (samples == waveforms[KEYS[5]]).all()
    page = (tmp_path / "left" / "mistakes.html").read_text()
    assert page.count("<audio controls") == 3
    assert page.count("<td>suspected wrong label</td>") == 1
    assert "3 of 6 test clips are wrong" in page
    assert "a&lt;b" in (tmp_path / "left" / "scores.html").read_text()
