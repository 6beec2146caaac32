"""The served classifier: MLflow runs this file where a champion is loaded (models from code: nothing is pickled).

Input: a table with a column `audio`, the bytes of a recording in any format that libsndfile reads (base64 over HTTP).
Output: one row each: `label`, `probability`, and a column per class.
"""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from audioconfit.classifier import Classifier


class ServedClassifier(PythonModel):
    """A Classifier behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises ValueError for rows that are no recordings."""
        if "audio" not in model_input.columns or model_input.empty:
            raise ValueError("Send a table with a column 'audio' that holds the bytes of at least one recording.")
        return pd.DataFrame([self._name(recording) for recording in model_input["audio"]])

    def _name(self, recording: bytes) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(suffix=".audio") as file:
            file.write(recording)
            file.flush()
            probabilities = self.classifier.probabilities(Path(file.name))
        best = int(probabilities.argmax())
        named = dict(zip(self.classifier.classes, probabilities.tolist(), strict=True))
        return {"label": self.classifier.classes[best], "probability": float(probabilities[best]), **named}


mlflow.models.set_model(ServedClassifier())
