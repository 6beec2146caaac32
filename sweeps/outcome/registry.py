"""The registry: the best probe of each task as a registered MLflow model, alias `champion`, that loads back and
predicts.
"""

import io
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

import audioconfit
from audioconfit.audio import SAMPLE_RATE
from audioconfit.classifier import DESCRIPTION, Classifier
from sweeps import identity
from sweeps.identity import Identity
from sweeps.outcome import card
from sweeps.outcome.handover import assemble
from sweeps.outcome.race import Race
from sweeps.outcome.selection import Candidate
from sweeps.tracking.tracker import Tracker
from sweeps.trial.assignment import Assignment
from sweeps.trial.stages import StageStore

AWAY = (MlflowException, OSError)  # what a server that is away, or has lost something, is met with
CHAMPION = "champion"
SHOWN_VERSIONS = (
    "mlflow.modelVersions"  # a logged model's tag that MLflow's page reads: as which versions it is registered
)
SERVED = Path(__file__).with_name("champion.py")
# Of a recording that is served: a megabyte of FLAC may hold hours. load_model's model_config says otherwise.
LONGEST_SECONDS = 600.0
# What loading a champion and reading a recording import; audioconfit itself travels with the model.
NEEDED = (
    "mlflow",
    "torch",
    "torchaudio",
    "transformers",
    "filelock",
    "huggingface-hub",
    "safetensors",
    "soundfile",
    "av",
    "soxr",
    "numpy",
    "pandas",
    "pyarrow",
    "jaxtyping",
    "pyyaml",
    "rich",
)


@dataclass(frozen=True)
class Registered:
    """A champion as the registry knows it."""

    name: str
    version: str
    uri: str
    why: str
    cell: str


def model_name(dataset: str) -> str:
    """The registered model of a task."""
    return f"audioconfit-{dataset}"


def register(
    tracker: Tracker,
    store: StageStore,
    winner: Candidate,
    why: str,
    *,
    race: Race | None = None,
    refit: Assignment | None = None,
) -> Registered:
    """Logs the winner's classifier to the run that confirmed it, registers it and points `champion` at it, unless a
    better one of another sweep over the same recordings holds that title.

    A version that is already there for the same run is taken. `refit`: the run that is handed over instead of the
    winner's best one.
    """
    best = refit or winner.best_run.assignment
    mlflow.set_tracking_uri(tracker.uri)
    client, name = MlflowClient(tracking_uri=tracker.uri), model_name(winner.dataset)
    version = _version_of(client, name, tracker.sweep, best.key)
    if version is None:
        logged = _log(tracker, best, assemble(best, store))
        version = _new_version(client, name, logged, _tags(tracker, winner, race, best), why)
    holder = _better_of_another_sweep(client, name, tracker.sweep, _tags(tracker, winner, race, best))
    if holder is not None:
        score = float(holder.tags["valid_score"])
        why += f" The champion stays version {holder.version}, of the sweep {holder.tags['sweep']}, with {score:.4f}."
        return Registered(name, version, f"models:/{name}/{version}", why, winner.cell)
    client.set_registered_model_alias(name, CHAMPION, version)
    client.update_registered_model(name, description=card.text(f"models:/{name}@{CHAMPION}", tracker.uri, winner, why))
    return Registered(name, version, f"models:/{name}@{CHAMPION}", why, winner.cell)


def _tags(tracker: Tracker, winner: Candidate, race: Race | None, best: Assignment) -> dict[str, str]:
    """What a version says of itself; `task`: scores of the same one can be compared."""
    recipe = winner.best_run.recipe
    raced = race.best_of(winner.cell) if race else None
    judged = (f" {recipe.metric}" if recipe.metric else "") + (f" over {len(raced.folds)} folds" if raced else "")
    return {
        "key": best.key,
        "cell": winner.cell,
        "sweep": tracker.sweep.name,
        identity.TAG: tracker.sweep.id,
        "task": f"{recipe.fingerprint} {recipe.protocol or 'default'}{judged}",
        "valid_score": repr(raced.mean if raced else winner.valid),
    }


def _better_of_another_sweep(
    client: MlflowClient, name: str, sweep: Identity, tags: dict[str, str]
) -> ModelVersion | None:
    """The champion so far, if it is of another sweep, of the same task, has the higher mean validation score, and can
    still be loaded.
    """
    if CHAMPION not in client.get_registered_model(name).aliases:
        return None
    holder: ModelVersion = client.get_model_version_by_alias(name, CHAMPION)
    held = holder.tags
    comparable = held.get("task") == tags["task"] and not _is_of(sweep, holder)
    is_better = comparable and float(held["valid_score"]) > float(tags["valid_score"])
    return holder if is_better and _is_whole(holder) else None


def _log(tracker: Tracker, best: Assignment, classifier: Classifier) -> ModelInfo:
    """The classifier as an MLflow model of the run that confirmed it."""
    # In the storage: of a full size it has half a gigabyte, and /tmp may be memory.
    with (
        TemporaryDirectory(dir=tracker.folder, prefix=".") as folder,
        mlflow.start_run(run_id=tracker.run_id(best.key)),
    ):
        classifier.save(Path(folder))
        return mlflow.pyfunc.log_model(name="classifier", **contents(Path(folder)))


def contents(folder: Path) -> dict[str, Any]:
    """What an MLflow model of the classifier in `folder` consists of, as `log_model` and `save_model` take it: our
    code, the versions of what it needs that run here, an example, and its classes. Loads where AudioConFit is not
    installed.
    """
    classes = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["classes"]
    return {
        "python_model": str(SERVED),
        "artifacts": {"classifier": str(folder)},
        "signature": signature(classes),
        "input_example": example(),
        "metadata": {"classes": classes},
        "model_config": {"longest_seconds": LONGEST_SECONDS},
        # Without what follows a plus: no index has a build such as 2.11.0+cpu.
        "pip_requirements": [f"{name}=={metadata.version(name).split('+')[0]}" for name in NEEDED],
        "code_paths": [str(Path(audioconfit.__file__).parent)],
    }


def signature(classes: Sequence[str]) -> ModelSignature:
    """Bytes of a recording and no path: a caller of the server must not be able to name the server's files. The label
    set is in the answer: a probability by the name of each class.
    """
    probabilities = Object([Property(label, DataType.double) for label in classes])
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "audio")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label", required=False),
                ColSpec(DataType.double, "probability", required=False),
                ColSpec(Array(DataType.string), "labels", required=False),
                ColSpec(probabilities, "probabilities", required=False),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
    )


def example() -> pandas.DataFrame:
    """A second of a tone, as a recording's bytes: what a caller sends."""
    phases = 2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE
    with wave.open(recording := io.BytesIO(), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "NONE"))
        file.writeframes((8000 * np.sin(phases)).astype("<i2").tobytes())
    return pandas.DataFrame({"audio": [recording.getvalue()]})


def _new_version(client: MlflowClient, name: str, logged: ModelInfo, tags: dict[str, str], why: str) -> str:
    """By the client, not by mlflow.register_model, which prints."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, logged.model_uri, run_id=logged.run_id, model_id=logged.model_id, tags=tags, description=why
    )
    # As MLflow's own register_model does: the logged model's page says "Not registered" otherwise.
    if logged.model_id:
        said = [{"name": name, "version": made.version}]
        client.set_logged_model_tags(logged.model_id, {SHOWN_VERSIONS: json.dumps(said)})
    return str(made.version)


def _version_of(client: MlflowClient, name: str, sweep: Identity, key: str) -> str | None:
    """The version that was registered for this confirmed run before, by a driver that may have been killed then; one
    whose files are gone counts for nothing.
    """
    known = client.search_model_versions(f"name = '{name}'")
    mine = (one for one in known if one.tags.get("key") == key and _is_of(sweep, one) and _is_whole(one))
    return next((str(version.version) for version in mine), None)


def _is_whole(version: ModelVersion) -> bool:
    """Whether the version's files are there: a sweep's folder may have been removed since."""
    try:
        listed = mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{version.name}/{version.version}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return any(file.path == "MLmodel" for file in listed)


def _is_of(sweep: Identity, version: ModelVersion) -> bool:
    """Whether this sweep registered the version."""
    return version.tags.get("sweep", sweep.name) == sweep.name and sweep.owns(version.tags)
