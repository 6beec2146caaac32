"""A sweep over encoders of spectrograms, tiny ones of Whisper and AST, from the plan to recordings that are named."""

import base64
import json
import sys
from pathlib import Path

import makers
import mlflow
import pytest
import tiny_encoders
import torch
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server

from audioconfit import __main__ as command_line
from audioconfit import encoders
from audioconfit.recipe import Recipe
from sweeps import grid
from sweeps.trial.stages import StageStore

pytestmark = pytest.mark.slow

ARCHITECTURES = {"a-whisper": "whisper", "an-ast": "audio-spectrogram-transformer"}
METHODS = ("frozen", "pairtune")
CELLS = {f"{name}.tones{'' if how == 'pairtune' else f'.{how}'}": name for name in ARCHITECTURES for how in METHODS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and the two backbones as folders."""
    found = tmp_path_factory.mktemp("spectrograms")
    makers.tones(found / "tones")
    for name, architecture in ARCHITECTURES.items():
        tiny_encoders.encoder_of(architecture).save(found / name)
    return found


@pytest.fixture(scope="module")
def swept(local_ray: None, folder: Path) -> Path:
    """A storage folder with a finished sweep over both of them, frozen and tuned."""
    backbones = ",".join(str(folder / name) for name in ARCHITECTURES)
    asked = ["--datasets", str(folder / "tones"), "--backbones", backbones, "--methods", ",".join(METHODS)]
    small = ["--trials", "1", "--epochs", "2", "--seeds", "1", "--batch-sizes", "8", "--chunks", "0.5", "--lr", "1e-3"]
    where = ["--storage", str(folder / "storage"), "--name", "try", "--slots", "1", "--set", "layers=all"]
    assert grid.main([*asked, *small, *where]) == 0
    return folder / "storage"


def client(storage: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")


def test_every_cell_ends_with_a_score_and_tuning_has_moved_the_weights(swept: Path, folder: Path) -> None:
    store = client(swept)
    experiment = store.get_experiment_by_name("try").experiment_id
    cells = store.search_runs([experiment], "tags.kind = 'cell'")
    assert {run.data.tags["key"] for run in cells} == {f"cell:{name}" for name in CELLS}
    assert all(run.info.status == "FINISHED" and "valid_score" in run.data.metrics for run in cells)
    for name, backbone in CELLS.items():
        (result,) = (swept / "try" / "trials").glob(f"{name}-test-*/result.json")
        recipe = Recipe(**json.loads(result.read_text())["recipe"])
        left = StageStore(swept / "try").encoder(recipe.stage_key)
        assert left.model.config.model_type == ARCHITECTURES[backbone]
        before = encoders.load(str(folder / backbone)).state_dict()
        moved = any(not torch.equal(before[key], value) for key, value in left.state_dict().items())
        assert moved == (recipe.method == "pairtune")


def test_the_champion_and_every_cell_name_recordings(
    swept: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept / 'mlflow.db'}")
    monkeypatch.setattr(sys, "path", list(sys.path))  # a registered model puts its code in front of all other
    version = client(swept).get_model_version_by_alias("audioconfit-tones", "champion")
    (best,) = (name for name in CELLS if version.tags["key"].startswith(f"{name}-test-"))
    named = {}
    for model in ["models:/audioconfit-tones@champion", *(str(swept / "try" / name) for name in CELLS)]:
        assert command_line.main(["predict", model, str(folder / "tones" / "pitch-1"), "--json", "--top-k", "3"]) == 0
        named[model] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(named[model]) == 8
        assert all(len(row["probabilities"]) == 3 for row in named[model])  # and no error
    champion, cell = named["models:/audioconfit-tones@champion"], named[str(swept / "try" / best)]

    mlflow.set_tracking_uri(f"sqlite:///{swept / 'mlflow.db'}")
    server = TestClient(scoring_server.init(mlflow.pyfunc.load_model("models:/audioconfit-tones@champion")))
    recordings = sorted((folder / "tones" / "pitch-1").iterdir())
    rows = [{"audio": base64.b64encode(recording.read_bytes()).decode()} for recording in recordings]
    served = server.post("/invocations", json={"dataframe_records": rows}).json()["predictions"]
    for one, other, answer in zip(champion, cell, served, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert answer["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
