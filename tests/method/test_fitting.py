"""README's lines of Python, word for word, and what `fit` makes of the recipe's fields."""

import ast
import re
from pathlib import Path

import blocks
import makers
import pytest
import recordings

import audioconfit
from audioconfit import synthesis
from audioconfit.errors import InputError

README = blocks.ROOT / "README.md"


def test_the_python_at_the_front_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    synthesis.write("emodb", tmp_path / "data")
    monkeypatch.setattr("audioconfit.corpora.check_complete", lambda corpus: None)  # the stand-in is small
    sorted((tmp_path / "data").rglob("*.wav"))[0].rename(tmp_path / "some.wav")
    (block,) = blocks.blocks(README, section="In Python")
    model = blocks.run(block)["model"]
    said = capsys.readouterr().out.splitlines()
    assert float(said[0]) == model.scores["test_accuracy"]  # read back with the model
    (named,) = model.predict("some.wav")
    told = re.fullmatch(r"some\.wav (\(.*\)) (\[.*\]) None", said[1])
    assert told
    assert ast.literal_eval(told[1]) == named.labels
    assert dict(ast.literal_eval(told[2])) == pytest.approx(dict(named.top(3)), abs=1e-6)  # threads add in any order
    assert said[2] == "other.wav () [] missing"


def test_fit_reports_each_epoch_and_takes_fields_of_the_recipe(tmp_path: Path) -> None:
    told = []
    model = audioconfit.fit(
        makers.tones(tmp_path / "tones", seconds=0.3),
        backbone="wav2vec2-random",
        epochs=2,
        lr=1e-3,
        batch_size=8,
        progress=False,
        report=lambda epoch, metrics: told.append((epoch, sorted(metrics))),
    )
    assert [epoch for epoch, _ in told] == [1, 2]
    recipe = model.about["recipe"]
    assert (recipe["lr"], recipe["batch_size"], recipe["chunk_seconds"], recipe["dataset"]) == (1e-3, 8, 0.25, "tones")
    assert model.classes == ("pitch-0", "pitch-1", "pitch-2")
    assert {"valid_score", "test_accuracy", "test_accuracy_low"} <= model.scores.keys()
    assert "| pitch-0 |" in model._repr_markdown_()


@pytest.mark.parametrize(("field", "value"), [("epoch", 3), ("lr", -1.0)])
def test_a_field_that_is_none_or_cannot_be_is_refused_by_its_name(tmp_path: Path, field: str, value: float) -> None:
    corpus = recordings.corpus_of(tmp_path / "birds", count=12)
    with pytest.raises(InputError, match=f"^{field}={value}"):
        audioconfit.fit(corpus, backbone="wav2vec2-random", progress=False, **{field: value})
