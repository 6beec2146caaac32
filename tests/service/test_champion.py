"""The champion behind MLflow's own server: every input format, a bad recording in its row, nothing but recordings,
thresholds where clips carry label sets.
"""

import base64
import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import environments
import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from tiny_classifiers import CLASSES, made, recording

from audioconfit.classifier import Classifier
from sweeps.outcome import registry


def serve(classifier: Classifier, folder: Path) -> TestClient:
    """As `mlflow models serve` runs it, without a port."""
    classifier.save(folder / "classifier")
    mlflow.pyfunc.save_model(folder / "model", **registry.contents(folder / "classifier"))
    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder / "model"))))


@pytest.fixture(autouse=True)
def importing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model puts its code in front of all other; in this process only while it is tested."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def server(tmp_path: Path) -> TestClient:
    return serve(made(), tmp_path)


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs", "instances"])
def test_every_input_format_is_answered_and_what_is_no_recording_is_named_in_its_row(
    server: TestClient, tmp_path: Path, form: str
) -> None:
    good = base64.b64encode(recording(tmp_path).read_bytes()).decode()
    bad = base64.b64encode(b"no recording").decode()
    rows = [{"audio": good}, {"audio": bad}, {"audio": good}]
    body = {"columns": ["audio"], "data": [[row["audio"]] for row in rows]} if form == "dataframe_split" else rows
    answer = server.post("/invocations", json={form: body})
    assert answer.status_code == 200, answer.text
    first, broken, third = answer.json()["predictions"]
    expected = made().predict(recording(tmp_path))[0]
    assert first == third
    assert (first["label"], first["labels"]) == (expected.top(1)[0][0], list(expected.labels))
    assert first["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert sorted(first["probabilities"]) == sorted(CLASSES)
    assert (first["error"], broken["label"]) == (None, None)
    assert broken["error"] == "not audio: no decoder knows its format"


def test_a_small_file_of_hours_is_refused_in_its_row_before_it_costs_anything(
    server: TestClient, tmp_path: Path
) -> None:
    soundfile.write(long := io.BytesIO(), np.zeros(16_000 * 2 * 3600, np.int16), 16_000, format="FLAC")
    assert len(long.getvalue()) < 1e6
    sounds = (long.getvalue(), recording(tmp_path).read_bytes())
    cells = [{"audio": base64.b64encode(sound).decode()} for sound in sounds]
    began = time.process_time()
    refused, named = server.post("/invocations", json={"dataframe_records": cells}).json()["predictions"]
    assert time.process_time() - began < 5.0  # it cost 34 s and 2.2 GB
    assert "too long: more than 600 s" in refused["error"]
    assert named["error"] is None


def test_whoever_loads_a_champion_says_how_long_recordings_may_be(server: TestClient, tmp_path: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"longest_seconds": 0.5})
    (error,) = loaded.predict(pd.DataFrame({"audio": [recording(tmp_path, 0.6).read_bytes()]}))["error"]
    assert "too long: more than 0.5 s" in error


def test_the_model_carries_its_label_set_and_an_example_that_it_answers(tmp_path: Path) -> None:
    server = serve(made(), tmp_path)
    about = mlflow.models.get_model_info(str(tmp_path / "model"))
    (probabilities,) = (column for column in about.signature.outputs.inputs if column.name == "probabilities")
    assert sorted(label.name for label in probabilities.type.properties) == sorted(CLASSES)
    assert about.metadata["classes"] == list(CLASSES)
    sent = (tmp_path / "model" / "serving_input_example.json").read_text()
    answer = server.post("/invocations", content=sent, headers={"Content-Type": "application/json"})
    (row,) = answer.json()["predictions"]
    assert row["label"] in CLASSES
    assert row["error"] is None


@pytest.mark.parametrize("architecture", ["whisper", "audio-spectrogram-transformer", "wav2vec2-bert", "sew"])
def test_a_champion_of_each_kind_of_encoder_answers_as_the_classifier_does(tmp_path: Path, architecture: str) -> None:
    ours, sound = made(architecture, chunk_seconds=0.25), recording(tmp_path)
    body = {"dataframe_records": [{"audio": base64.b64encode(sound.read_bytes()).decode()}]}
    (row,) = serve(ours, tmp_path).post("/invocations", json=body).json()["predictions"]
    assert row["probabilities"] == pytest.approx(ours.predict(sound)[0].probabilities, abs=1e-5)
    assert row["error"] is None


def test_a_table_without_recordings_is_a_400_and_a_path_is_opened_by_nobody(server: TestClient, tmp_path: Path) -> None:
    assert server.post("/invocations", json={"dataframe_records": [{"sound": "x"}]}).status_code == 400
    answer = server.post("/invocations", json={"dataframe_records": [{"audio": str(recording(tmp_path))}]})
    assert answer.status_code == 400 or answer.json()["predictions"][0]["error"]


@pytest.mark.parametrize(("steps", "count"), [((5.0, -5.0, 5.0), 1), ((-5.0, 5.0, -5.0), 2), ((5.0, 5.0, 5.0), 0)])
def test_a_champion_of_label_sets_names_what_is_above_its_thresholds(
    tmp_path: Path, steps: tuple[float, ...], count: int
) -> None:
    """`steps`: how far each class' threshold lies above its logit for the recording. Probabilities stay."""
    plain, sound = made(several=True), recording(tmp_path)
    logits = torch.logit(torch.tensor(list(plain.predict(sound)[0].probabilities.values())))
    probe = replace(plain.probe, thresholds=logits + torch.tensor(steps))
    server = serve(replace(plain, probe=probe), tmp_path)
    cells = [{"audio": base64.b64encode(content).decode()} for content in (sound.read_bytes(), b"no recording")]
    answer, broken = server.post("/invocations", json={"dataframe_records": cells}).json()["predictions"]
    above = [name for name, step in zip(CLASSES, steps, strict=True) if step < 0]
    assert len(above) == count
    assert answer["labels"] == above
    probabilities = dict(zip(CLASSES, logits.sigmoid().tolist(), strict=True))
    assert answer["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    best = max(above, key=lambda name: probabilities[name], default=None)
    assert answer["label"] == best
    assert answer["probability"] == (None if best is None else pytest.approx(probabilities[best], abs=1e-5))
    assert (answer["error"], broken["label"], broken["probability"]) == (None, None, None)


LOADS = """
import json, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
recordings = [open(path, "rb").read() for path in sys.argv[2:]]
import audioconfit, pandas
named = model.predict(pandas.DataFrame({"audio": recordings}))
names = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps([audioconfit.__file__, list(named["probabilities"]), list(named["error"]), names]))
"""


def test_the_registered_model_loads_with_its_own_requirements_and_code_alone_and_needs_each(tmp_path: Path) -> None:
    """Of a WAV, and of an MP3 with another rate, which FFmpeg decodes."""
    ours, paths = made(), [recording(tmp_path), tmp_path / "b.mp3"]
    samples, _ = soundfile.read(paths[0])
    soundfile.write(paths[1], samples, 44_100, format="MP3")
    ours.save(tmp_path / "classifier")
    mlflow.pyfunc.save_model(tmp_path / "model", **registry.contents(tmp_path / "classifier"))
    lines = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert not [line for line in lines if "==" not in line or line.startswith(("audioconfit", "sweeps"))]
    packages = environments.linked(tmp_path / "packages", *lines)
    assert not list(packages.glob("*audioconfit*"))
    printed = environments.run(packages, LOADS, str(tmp_path / "model"), *map(str, paths))
    home, probabilities, errors, imported = json.loads(printed.splitlines()[-1])
    assert Path(home).is_relative_to(tmp_path / "model" / "code")
    assert errors == [None, None]
    for named, expected in zip(probabilities, ours.predict(paths), strict=True):
        assert named == pytest.approx(expected.probabilities, abs=1e-5)
    modules = {line: {file.split(".")[0] for file in environments.holds(line.split("==")[0])} for line in lines}
    assert not [line for line, held in modules.items() if held.isdisjoint(imported)]
