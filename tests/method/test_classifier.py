"""A classifier names recordings as in training, and its folder is a checkpoint that transformers runs alone."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import environments
import pytest
import soundfile
import tiny_encoders
import transformers
import yaml
from tiny_classifiers import CLASSES, made, recording

import audioconfit
from audioconfit import __main__, classifier
from audioconfit.classifier import Classifier
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe


def piped(model: Path, path: Path) -> dict[str, float]:
    """What transformers' own pipeline says."""
    samples, rate = soundfile.read(path, dtype="float32")
    classify = transformers.pipeline("audio-classification", model=str(model), device="cpu")
    return {row["label"]: row["score"] for row in classify({"raw": samples, "sampling_rate": rate}, top_k=None)}


def furthest(some: dict[str, float], others: dict[str, float]) -> float:
    """The largest difference of two sets of probabilities of the same classes."""
    assert some.keys() == others.keys()
    return max(abs(some[label] - others[label]) for label in some)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' own WavLM
@pytest.mark.parametrize("config", [{}, tiny_encoders.LARGE], ids=["group norm", "layer norm"])
@pytest.mark.parametrize("architecture", tiny_encoders.ARCHITECTURES)
def test_transformers_alone_gives_our_probabilities(tmp_path: Path, architecture: str, config: dict[str, Any]) -> None:
    several = architecture == "hubert"
    ours, path = made(architecture, several=several, **config), recording(tmp_path)
    ours.save(tmp_path / "out")
    (named,) = ours.predict(path)
    assert furthest(piped(tmp_path / "out", path), named.probabilities) < 1e-5
    assert 0.01 < min(named.probabilities.values()) < max(named.probabilities.values()) < 0.99  # none saturated


ALONE = """
import json, wave, numpy
from transformers import pipeline
with wave.open(sys.argv[2]) as file:
    samples = numpy.frombuffer(file.readframes(file.getnframes()), "int16") / numpy.float32(32768)
classify = pipeline("audio-classification", model=sys.argv[1], device="cpu")
rows = classify({"raw": samples, "sampling_rate": 16_000}, top_k=None)
print(json.dumps({row["label"]: row["score"] for row in rows}))
"""


def test_an_environment_of_transformers_and_torch_alone_gives_our_probabilities(tmp_path: Path) -> None:
    ours, path = made(), recording(tmp_path)
    ours.save(tmp_path / "out")
    packages = environments.linked(tmp_path / "packages", "transformers", "torch")
    assert not [name for name in ("audioconfit", "soundfile.py", "torchaudio", "av") if (packages / name).exists()]
    printed = environments.run(packages, ALONE, str(tmp_path / "out"), str(path))
    assert furthest(json.loads(printed.splitlines()[-1]), ours.predict(path)[0].probabilities) < 1e-5


def test_a_recording_longer_than_a_chunk_is_where_the_pipeline_differs(tmp_path: Path) -> None:
    ours, path = made(chunk_seconds=0.25), recording(tmp_path, 1.0)
    ours.save(tmp_path / "out")
    (named,) = ours.predict(path)
    assert furthest(piped(tmp_path / "out", path), named.probabilities) > 1e-4
    for seed in range(2):
        piece = recording(tmp_path, 0.25, seed=seed, name=f"{seed}.wav")
        assert furthest(piped(tmp_path / "out", piece), ours.predict(piece)[0].probabilities) < 1e-5
    assert "in consecutive pieces of 0.25 s" in (tmp_path / "out" / "README.md").read_text()


def test_a_classifier_comes_back_as_it_was_saved_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = recording(tmp_path)
    for several in (False, True):
        ours = made(several=several)
        ours.save(tmp_path / "out")
        back = audioconfit.load(tmp_path / "out")
        assert furthest(back.predict(path)[0].probabilities, ours.predict(path)[0].probabilities) == 0
        assert back.predict(path)[0].labels == ours.predict(path)[0].labels
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"]["2"] == CLASSES[2]
    assert config["problem_type"] == "multi_label_classification"
    assert not [hidden.name for hidden in tmp_path.iterdir() if hidden.name.startswith(".")]


def test_a_folder_of_version_0_1_is_read(tmp_path: Path) -> None:
    ours, path = made(), recording(tmp_path)
    ours.encoder.save(tmp_path / "old" / "encoder")
    ours.probe.save(tmp_path / "old" / "probe.safetensors")
    content = {"chunk_seconds": 1.0, "classes": CLASSES, "sample_rate": 16_000}
    (tmp_path / "old" / "classifier.json").write_text(json.dumps(content))
    back = Classifier.load(tmp_path / "old")
    assert furthest(back.predict(path)[0].probabilities, ours.predict(path)[0].probabilities) == 0


def test_bytes_and_batches_give_what_a_file_alone_gives(tmp_path: Path) -> None:
    ours = made(chunk_seconds=0.25)
    paths = [recording(tmp_path, 0.1 + 0.13 * number, seed=number, name=f"{number}.wav") for number in range(6)]
    alone = [ours.predict(path)[0].probabilities for path in paths]
    together = [prediction.probabilities for prediction in ours.predict(paths)]
    as_bytes = [prediction.probabilities for prediction in ours.predict([path.read_bytes() for path in paths])]
    for one, other, third in zip(alone, together, as_bytes, strict=True):
        assert furthest(one, other) < 1e-5
        assert furthest(one, third) < 1e-5
    assert float(ours.probabilities(paths[3])[1]) == pytest.approx(alone[3]["wren"], abs=1e-6)


def test_groups_of_recordings_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "GROUP_SECONDS", 1.0)
    paths = [recording(tmp_path, 0.6, seed=number, name=f"{number}.wav") for number in range(5)]
    found = made().predict([*paths[:2], tmp_path / "none.wav", *paths[2:]])
    names = [Path(prediction.recording).name for prediction in found]
    assert names == ["0.wav", "1.wav", "none.wav", "2.wav", "3.wav", "4.wav"]
    assert [prediction.error for prediction in found] == [None, None, "missing", None, None, None]


def test_segments_cover_a_recording_and_are_named_like_cuts_of_it(tmp_path: Path) -> None:
    ours, path = made(), recording(tmp_path, 1.01)
    found = ours.predict(path, segment_seconds=0.5)
    # The last 0.01 s, shorter than a frame, belong to the second stretch.
    assert [(prediction.start, prediction.end) for prediction in found] == [(0.0, 0.5), (0.5, 1.01)]
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(tmp_path / "cut.wav", samples[:8000], rate)
    assert furthest(found[0].probabilities, ours.predict(tmp_path / "cut.wav")[0].probabilities) < 1e-5
    with pytest.raises(InputError, match=r"Segments of 0\.001 s are too short"):
        ours.predict(path, segment_seconds=0.001)


def test_what_is_no_model_and_where_none_may_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no classifier"):
        Classifier.load(tmp_path)
    (tmp_path / "letters.txt").write_text("dear")
    for folder in (tmp_path, tmp_path / "letters.txt"):
        with pytest.raises(InputError, match=r"a new folder|is a file"):
            made().save(folder)
    with pytest.raises(InputError, match="cannot be written"):
        made().save(tmp_path / "letters.txt" / "out")
    made().save(tmp_path / "out")
    (tmp_path / "out" / "probe.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="holds no classifier that can be loaded"):
        audioconfit.load(tmp_path / "out")


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> str:
    made().save(tmp_path / "model")
    return str(tmp_path / "model")


def test_predict_names_a_bad_file_goes_on_and_exits_with_1(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = tmp_path / "sounds"
    (sounds / "deep").mkdir(parents=True)
    recording(sounds, name="a.wav")
    recording(sounds / "deep", seed=1, name="c.flac")
    (sounds / "b.mp3").write_bytes(b"no recording")
    recording(sounds, 0.012, name="d.wav")
    (sounds / "notes.txt").write_text("no recording by its name")
    assert __main__.main(["predict", model, str(sounds), "--json", "--top-k", "2"]) == 1
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [Path(row["recording"]).name for row in rows] == ["a.wav", "b.mp3", "d.wav", "c.flac"]
    assert len(rows[0]["probabilities"]) == 2
    assert rows[0]["labels"] == [max(rows[0]["probabilities"], key=rows[0]["probabilities"].get)]
    assert "error" not in rows[3]
    assert "no decoder knows its format" in rows[1]["error"]
    assert "too short: 192 samples" in rows[2]["error"]
    assert "b.mp3: not audio" in said.err
    assert "2 of 4 recordings could not be read." in said.err


def test_predict_takes_paths_from_standard_input_and_writes_csv_of_segments(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recording(tmp_path, 1.0)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{path}\n\n"))
    assert __main__.main(["predict", model, "-", "--csv", "--segments", "0.5"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["start"], row["end"]) for row in rows] == [("0.0", "0.5"), ("0.5", "1.0")]
    assert all(row["label"] == row["labels"] and row["recording"] == str(path) for row in rows)
    assert __main__.main(["predict", model, str(path)]) == 0
    assert "0.00 to 1.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["predict", "MODEL", "EMPTY"], "There is no recording in"),
        (["predict", "MODEL", "a.wav", "--top-k", "0"], "--top-k 0"),
        (["predict", "MODEL", "a.wav", "--segments", "-1"], "--segments -1"),
        (["predict", "MODEL", "a.wav", "--segments", "0.001"], "Segments of 0.001 s"),
        (["export", "MODEL", "MODEL/config.json"], "is a file"),
    ],
)
def test_commands_refuse_in_one_line_with_exit_code_2(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    (tmp_path / "empty").mkdir()
    words = [word.replace("MODEL", model).replace("EMPTY", str(tmp_path / "empty")) for word in words]
    assert __main__.main(words) == 2
    said = capsys.readouterr()
    assert why in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_an_export_has_a_card_with_the_hubs_metadata(model: str, tmp_path: Path) -> None:
    recipe = Recipe(dataset="emodb", fingerprint="f", backbone="wav2vec2", chunk_seconds=1.0, epochs=4)
    ours = Classifier.load(model)
    metrics = {"test_accuracy": 0.75, "test_accuracy_low": 0.5, "test_accuracy_high": 0.9, "valid_accuracy": 0.8}
    about = {
        "signature": recipe.signature,
        "recipe": recipe.model_dump(mode="json"),
        "metrics": metrics,
        "classes": CLASSES,
        "confusion": {"side": "test", "counts": ((3, 0, 1), (0, 4, 0), (2, 0, 2))},
        "protocol": "speaker 11 validates",
    }
    replace(ours, about=about).save(tmp_path / "rich")
    assert __main__.main(["export", str(tmp_path / "rich"), str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["pipeline_tag"], front["base_model"]) == ("audio-classification", "facebook/wav2vec2-base")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "Accuracy", "value": 0.75}]
    assert "| Accuracy | 0.7500 (0.5000 to 0.9000) | 0.8000 |" in text
    assert "| crow | 3 | 0 | 1 |" in text
    assert "speaker 11 validates" in text
    assert Classifier.load(tmp_path / "out").scores == metrics
