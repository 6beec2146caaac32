"""The champion behind MLflow's own server: every input format, a bad recording in its row, nothing but recordings."""

import base64
from pathlib import Path

import mlflow
import pytest
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from tiny_classifiers import CLASSES, made, recording

from sweeps.outcome import registry


@pytest.fixture
def server(tmp_path: Path) -> TestClient:
    """As `mlflow models serve` runs it, without a port."""
    made().save(tmp_path / "classifier")
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(registry.SERVED),
        artifacts={"classifier": str(tmp_path / "classifier")},
        signature=registry.SIGNATURE,
        pip_requirements=[],
    )
    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(tmp_path / "model"))))


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


def test_a_table_without_recordings_is_a_400_and_a_path_is_opened_by_nobody(server: TestClient, tmp_path: Path) -> None:
    assert server.post("/invocations", json={"dataframe_records": [{"sound": "x"}]}).status_code == 400
    answer = server.post("/invocations", json={"dataframe_records": [{"audio": str(recording(tmp_path))}]})
    assert answer.status_code == 400 or answer.json()["predictions"][0]["error"]
