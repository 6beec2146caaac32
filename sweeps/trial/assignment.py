"""The assignment: one trial as the driver hands it out, and the files by which others find its result."""

import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from audioconfit import files, predictions
from audioconfit.errors import InputError
from audioconfit.predictions import Predictions
from audioconfit.recipe import Recipe
from sweeps.slots.job_queue import Job

# The files of a trial's folder that others read.
RESULT, PROBE, PREDICTIONS = "result.json", "probe.safetensors", "predictions-{side}.safetensors"
LAYERS = "layers.json"

AGAIN = "The command of the sweep, run again, makes it anew."


@dataclass(frozen=True)
class Assignment:
    """One trial to run. `reads_test` only for the confirmation, after selection; `hands_over` for the champion's
    encoder; `keeps_predictions` where candidates are compared clip by clip.
    """

    recipe: Recipe
    prepared: Path
    root: Path
    key: str
    reads_test: bool = False
    hands_over: bool = False
    keeps_predictions: bool = False
    micro_batch: int | None = None

    @property
    def folder(self) -> Path:
        """Where the trial leaves its files."""
        return self.root / "trials" / self.key

    @property
    def is_done(self) -> bool:
        """Whether the trial has left its result, and it can be read; else it is run again, and finds its stage 1."""
        try:
            stamp = (self.folder / RESULT).stat().st_mtime_ns
            self.read_result()
            return _is_whole(self.folder, stamp)
        except (FileNotFoundError, InputError):
            return False

    def read_result(self) -> dict[str, Any]:
        """All that a trial that is done says of itself. InputError: its file is damaged."""
        result = files.read_json(self.folder / RESULT, AGAIN)
        if not isinstance(result.get("metrics"), dict):
            raise InputError(f"{self.folder / RESULT} is damaged (it has no metrics). {AGAIN}")
        return result

    def read_metrics(self) -> dict[str, float]:
        """The scores of a trial that is done. InputError: its file is damaged."""
        metrics: dict[str, float] = self.read_result()["metrics"]
        return metrics

    def read_layers(self) -> dict[int | str, float]:
        """The validation score by the layer that the probe reads, higher being better; empty where the last one alone
        was stored.
        """
        file = self.folder / LAYERS
        found: dict[str, float] = files.read_json(file, AGAIN) if file.exists() else {}
        return {int(layer) if layer.isdecimal() else layer: score for layer, score in found.items()}

    def has_predictions(self, side: str) -> bool:
        """Whether they were kept."""
        return (self.folder / PREDICTIONS.format(side=side)).exists()

    def predictions(self, side: str) -> Predictions:
        """What the probe of a trial that is done said of each clip."""
        return predictions.load(self.folder / PREDICTIONS.format(side=side))

    def job(self) -> Job:
        """The assignment as the job queue takes it."""
        warmth = f"{self.recipe.backbone} {self.recipe.fingerprint}"
        return Job(self.key, pickle.dumps(self), stage=self.recipe.stage_key, warmth=warmth)


@cache
def _is_whole(folder: Path, stamp: int) -> bool:
    """Whether the files beside a result are what they were when it was written; read once per process."""
    return not files.damaged(folder)


def unpack(job: Job) -> Assignment:
    """The assignment that a job carries."""
    assignment: Assignment = pickle.loads(job.work)
    return assignment
