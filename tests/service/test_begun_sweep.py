"""A sweep that an earlier version began goes on: nothing is repeated, and it ends as it would have ended there. One of
each version that left one.
"""

import json
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps import grid
from sweeps.search.durable_study import DurableStudy
from sweeps.search.halving import Halving
from sweeps.search.studies import open_storage

BEGUN = Path(__file__).parents[1] / "support" / "begun"
AT = {"a43381f": "/tmp/fix/begun", "35c9700": "/tmp/fix35/begun"}  # where each was begun: MLflow stores absolute paths
EPOCHS = {"a43381f": 4, "35c9700": 2}
CELL = "wav2vec2-random.tones"


@dataclass(frozen=True)
class Begun:
    """The sweep before this version went on with it, and what the version that began it reached in the end."""

    storage: Path
    epochs: int
    log: str  # of the slots, since
    ended: list[dict[str, Any]]
    expected: dict[str, Any]


def trials(storage: Path, epochs: int) -> list[dict[str, Any]]:
    study = DurableStudy(
        CELL, open_storage(f"sqlite:///{storage / 'try' / 'optuna.db'}"), pruner=Halving(first=1, epochs=epochs)
    )
    return [{"params": trial.params, "state": trial.state.name, "value": trial.value} for trial in study.trials]


def runs(storage: Path) -> dict[str, Any]:
    """MLflow's runs by the key of their trial."""
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("try").experiment_id])
    return {run.data.tags["key"]: run for run in found}


def move(database: Path, old: str, folder: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, str(folder)))


@pytest.fixture(scope="module", params=[pytest.param("a43381f", marks=pytest.mark.slow), "35c9700"])
def begun(local_ray: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Begun:
    folder, epochs = tmp_path_factory.mktemp("begun"), EPOCHS[request.param]
    with tarfile.open(BEGUN / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    storage = folder / "storage"
    move(storage / "mlflow.db", AT[request.param], folder)
    ended = [trial for trial in trials(storage, epochs) if trial["state"] == "COMPLETE"]
    log = storage / "try" / "slots.log"
    before = log.read_text() if log.exists() else ""
    asked = [
        *("--datasets", str(folder / "tones"), "--backbones", "wav2vec2-random", "--storage", str(storage)),
        *("--name", "try", "--trials", "6", "--epochs", str(epochs), "--seeds", "2", "--batch-sizes", "8,16"),
        *("--chunks", "0.15,0.3", "--slots", "1", "--select", "holdout"),
    ]
    assert grid.main(asked) == 0
    return Begun(
        storage, epochs, log.read_text().removeprefix(before), ended, json.loads((folder / "expected.json").read_text())
    )


def test_trials_that_had_ended_are_not_repeated(begun: Begun) -> None:
    assert len(begun.ended) == 3
    assert trials(begun.storage, begun.epochs)[:3] == begun.ended
    taken = [line.split()[-1] for line in begun.log.splitlines() if line.split()[1] == "take"]
    assert not [key for key in taken if key in {f"{CELL}-{number:04d}" for number in range(3)}]


def test_the_trial_that_was_killed_goes_on_under_its_key(begun: Begun) -> None:
    found = runs(begun.storage)
    assert {f"{CELL}-{number:04d}" for number in range(6)} <= found.keys()
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_the_search_proposes_what_the_version_that_began_it_would_have(begun: Begun) -> None:
    now, then = trials(begun.storage, begun.epochs), begun.expected["trials"]
    assert [trial["params"] for trial in now] == [trial["params"] for trial in then]
    assert [trial["state"] for trial in now] == [trial["state"] for trial in then]


def test_the_scores_and_the_champion_are_those_of_the_version_that_began_it(begun: Begun) -> None:
    now, then = trials(begun.storage, begun.epochs), begun.expected["trials"]
    # Six validation clips: another processor's rounding may turn one of them.
    assert [trial["value"] for trial in now] == pytest.approx([trial["value"] for trial in then], abs=1 / 6 + 1e-6)
    client = MlflowClient(tracking_uri=f"sqlite:///{begun.storage / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("audioconfit-tones", "champion")
    assert champion.tags["cell"] == CELL
    assert abs(float(champion.tags["valid_score"]) - begun.expected["metrics"]["valid_score"]) <= 1 / 6 + 1e-6
