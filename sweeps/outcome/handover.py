"""Models of the service by their names: a registered version, a trial's folder, a cell of a finished sweep."""

import os
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from audioconfit import files
from audioconfit.classifier import DESCRIPTION, Classifier
from audioconfit.errors import InputError
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe
from sweeps.outcome import confirmation
from sweeps.trial.assignment import AGAIN, PROBE, RESULT, Assignment
from sweeps.trial.stages import StageStore

STORAGE = Path("storage")  # the default of `--storage`


def load(model: str) -> Classifier:
    """The classifier of "models:/name@champion" or "models:/name/version" (in the registry that MLFLOW_TRACKING_URI
    names, else in that of ./storage), of `storage/sweep/trials/key`, or of `storage/sweep/cell`.

    Raises:
        InputError: there is no such model, or its encoder was not kept.
    """
    if model.startswith("models:/"):
        return _registered(model)
    folder = Path(model)
    if (folder / RESULT).is_file():
        result = files.read_json(folder / RESULT, AGAIN)
        stage = Recipe(**result["recipe"]).stage_key
        return _of_trial(folder, StageStore(folder.absolute().parents[1]), stage, result)
    if (folder.parent / confirmation.RECORD).is_file():
        cells = {candidate.cell: candidate for candidate in confirmation.recorded(folder.parent)}
        if folder.name not in cells:
            raise InputError(f"{folder.parent} has no cell {folder.name}; choose one of {', '.join(sorted(cells))}.")
        return assemble(cells[folder.name].best_run.assignment, StageStore(folder.parent))
    raise InputError(
        f"No model {model}; give a folder that `audioconfit export` or `model.save` wrote, models:/NAME@champion, a "
        f"cell of a finished sweep (STORAGE/SWEEP/CELL), or a trial's folder (STORAGE/SWEEP/trials/KEY)."
    )


def assemble(best: Assignment, store: StageStore) -> Classifier:
    """The classifier of a confirmed run: its stage's encoder, its probe, its classes and scores. All of it is what the
    run itself left: the prepared recordings may be others by now.
    """
    result = best.read_result()
    return _of_trial(best.folder, store, best.recipe.stage_key, result)


def _of_trial(folder: Path, store: StageStore, stage: str, result: dict[str, Any]) -> Classifier:
    if not store.has_encoder(stage):
        raise InputError(
            f"The encoder of {folder.name} was not kept: a sweep keeps those of each cell's best trial and of its "
            f"champions. Give one of these."
        )
    probe = Probe.load(folder / PROBE)
    chunk_seconds, classes = result["recipe"]["chunk_seconds"], tuple(result["classes"])
    return Classifier(store.encoder(stage), probe, chunk_seconds, classes, result)


def _registered(uri: str) -> Classifier:
    registry = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORAGE.absolute() / 'mlflow.db'}"
    if "MLFLOW_TRACKING_URI" not in os.environ and not STORAGE.is_dir():
        raise InputError(
            f"{uri}: there is no sweep in {STORAGE.absolute()}; go to the folder that holds storage/, or say where the "
            f"registry is: MLFLOW_TRACKING_URI=sqlite:////path/to/storage/mlflow.db."
        )
    mlflow.set_tracking_uri(registry)
    with tempfile.TemporaryDirectory() as folder:
        try:
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise InputError(f"{uri} cannot be had from {registry}: {str(error).splitlines()[0]}") from error
        found = next(iter(sorted(Path(folder).rglob(DESCRIPTION))), None)
        if found is None:
            raise InputError(f"{uri} is no classifier of AudioConFit; name a model that a sweep registered.")
        return Classifier.load(found.parent)
