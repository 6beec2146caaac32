"""The served classifier: MLflow runs this file where a champion is loaded (models from code: nothing is pickled).

Input: a table with a column `audio`, the bytes of a recording in any format that preparing reads (base64 over HTTP).
Output: one row each: `label` and its `probability`, `labels` (where clips carry label sets all that are above their
thresholds, of which `label` is the most probable; none may be), `probabilities` (of every class), and `error` where a
recording cannot be read, or is longer than `longest_seconds` of the model's config, which does not stop the others.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

from audioconfit.classifier import Classifier, Prediction

COLUMNS = ("label", "probability", "labels", "probabilities", "error")


class ServedClassifier(PythonModel):
    """A Classifier behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))
        self.longest_seconds = context.model_config["longest_seconds"]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises MlflowException, which the server answers with 400, for a table that holds no recordings."""
        if not isinstance(model_input, pd.DataFrame) or "audio" not in model_input.columns or model_input.empty:
            raise MlflowException.invalid_parameter_value(
                "Send a table with a column 'audio' that holds the bytes of at least one recording, base64 over HTTP."
            )
        found = self.classifier.each(map(_as_bytes, model_input["audio"]), longest_seconds=self.longest_seconds)
        table = pd.DataFrame([_row(prediction) for prediction in found], columns=COLUMNS)
        return table.astype(object).where(table.notna(), None) if table["label"].isna().any() else table


def _as_bytes(cell: Any) -> bytes:
    """A recording's bytes; no audio where the cell holds something else. Never a path to open.

    MLflow decodes base64 in some of its input formats and hands it over as text or as the text's bytes in others; no
    recording consists of base64's letters alone.
    """
    is_bytes = isinstance(cell, bytes | bytearray | memoryview)
    content = bytes(cell) if is_bytes else str(cell).encode()
    try:
        return base64.b64decode(content.replace(b"\n", b""), validate=True)
    except binascii.Error:
        return content if is_bytes else b"?"


def _row(prediction: Prediction) -> dict[str, Any]:
    if prediction.error is not None:
        return {"error": prediction.error}
    best = max(prediction.labels, key=lambda label: prediction.probabilities[label], default=None)
    return {
        "label": best,
        "probability": None if best is None else prediction.probabilities[best],
        "labels": list(prediction.labels),
        "probabilities": prediction.probabilities,
        "error": None,
    }


mlflow.models.set_model(ServedClassifier())
