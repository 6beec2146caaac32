"""Whole sweeps that share a name, a database of Optuna or an MLflow, and backbones of one last name: none takes what is
another's. What they run on may change, and is said.
"""

import json
import re
from pathlib import Path

import makers
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from audioconfit import encoders
from sweeps import grid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def places(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, and two checkpoints of other weights."""
    folder = tmp_path_factory.mktemp("places")
    makers.tones(folder / "tones")
    for seed in (1, 2):
        encoders.load("wav2vec2-random", seed=seed).save(folder / f"run{seed}" / "checkpoint")
    return folder


def sweep(places: Path, storage: str, name: str, *more: str) -> int:
    """The exit code of a small sweep that shares Optuna's storage and MLflow with all the others here."""
    return grid.main(
        [
            *("--datasets", str(places / "tones"), "--storage", str(places / storage), "--name", name),
            *("--optuna-storage", f"sqlite:///{places / 'optuna.db'}"),
            *("--tracking-uri", f"sqlite:///{places / 'mlflow.db'}"),
            *("--trials", "1", "--batch-sizes", "8", "--chunks", "0.25", "--seeds", "1", "--slots", "1"),
            *("--select", "holdout", *more),
        ]
    )


def runs(places: Path, name: str, kind: str) -> list[Run]:
    client = MlflowClient(tracking_uri=f"sqlite:///{places / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name(name).experiment_id], f"tags.kind = '{kind}'"))


def results(places: Path, storage: str, name: str) -> list[dict[str, object]]:
    found = sorted((places / storage / name / "trials").glob("*/result.json"))
    return [json.loads(path.read_text())["recipe"] for path in found]


def test_sweeps_on_one_optuna_storage_and_one_mlflow(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = ("--backbones", "wav2vec2-random")
    assert sweep(places, "storage", "one", *random, "--epochs", "1") == 0
    capsys.readouterr()
    assert sweep(places, "storage", "two", *random, "--epochs", "2") == 0
    assert "all trials are done already" not in capsys.readouterr().out
    assert {recipe["epochs"] for recipe in results(places, "storage", "one")} == {1}
    assert {recipe["epochs"] for recipe in results(places, "storage", "two")} == {2}

    before = {run.info.run_id for kind in ("trial", "cell", "confirmation") for run in runs(places, "one", kind)}
    assert sweep(places, "elsewhere", "one", *random, "--epochs", "3") == 0  # of the first one's name
    trials = runs(places, "one", "trial")
    assert len(trials) == len({run.data.tags["sweep_id"] for run in trials}) == 2
    assert sorted(run.data.params["epochs"] for run in trials) == ["1", "3"]
    assert len(before) == 3
    assert (
        len({run.info.run_id for kind in ("trial", "cell", "confirmation") for run in runs(places, "one", kind)}) == 6
    )

    client = MlflowClient(tracking_uri=f"sqlite:///{places / 'mlflow.db'}")
    versions = client.search_model_versions("name = 'audioconfit-tones'")
    assert len({version.tags["sweep_id"] for version in versions}) == len(versions) == 3

    capsys.readouterr()
    assert sweep(places, "storage", "two", *random, "--epochs", "2", "--trials", "2", "--cpus-per-worker", "0.5") == 0
    assert "ran or will run with --cpus-per-worker 1, 0.5. They round" in capsys.readouterr().out


def test_two_checkpoints_of_one_last_name_are_trained_and_shown_each(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbones = [str(places / f"run{seed}" / "checkpoint") for seed in (1, 2)]
    asked = ("--backbones", ",".join(backbones), "--methods", "frozen")
    assert sweep(places, "storage", "twins", *asked) == 0
    assert capsys.readouterr().out.count("all trials are done") == 0
    cells = {run.data.tags["cell"]: run.data.tags["backbone"] for run in runs(places, "twins", "trial")}
    assert sorted(cells.values()) == backbones
    assert all(re.fullmatch(r"checkpoint-[0-9a-f]{6}\.tones\.frozen", name) for name in cells)
    confirmed = json.loads((places / "storage" / "twins" / "confirmed.json").read_text())
    assert confirmed.keys() == cells.keys()
    trained = {recipe["backbone"] for recipe in results(places, "storage", "twins")}
    assert trained == set(backbones)
    assert sweep(places, "storage", "twins", *asked) == 0
    assert "all trials are done already" in capsys.readouterr().out
