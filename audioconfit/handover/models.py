"""Models by their names: a folder that `save` wrote here; all else is for the service to find."""

import importlib
from pathlib import Path

from audioconfit import classifier, files
from audioconfit.classifier import Classifier
from audioconfit.errors import InputError

# Finds the models of sweeps and of MLflow's registry. Imported when such a model is named, for it brings MLflow.
SERVICE = "sweeps.outcome.handover"


def load(model: Path | str) -> Classifier:
    """The classifier in a folder that `save` or `audioconfit export` wrote, of a sweep's cell, or of MLflow's registry
    ("models:/audioconfit-esc50@champion").

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    if files.is_file(Path(model) / classifier.DESCRIPTION):
        return Classifier.load(model)
    try:
        service = importlib.import_module(SERVICE)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{model} is no folder of an exported model, and the service, which knows sweeps and the registry, is not "
            f"installed here ({error}): give a folder that `audioconfit export` wrote."
        ) from None
    found: Classifier = service.load(str(model))
    return found
