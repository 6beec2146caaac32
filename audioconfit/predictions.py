"""Predictions: what a probe says of each clip. Kept, so that a score can be resampled and two candidates compared clip
by clip.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from audioconfit import files
from audioconfit.corpora import Clip


@dataclass(frozen=True)
class Predictions:
    """One row per clip. Labels as in Features; `groups` are the clips' speakers or source recordings, where known."""

    keys: tuple[str, ...]
    groups: tuple[str | None, ...]
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"]
    logits: Float[Tensor, "clips classes"]

    def save(self, path: Path) -> None:
        """As safetensors, keys and groups in its metadata."""
        tensors = {"labels": self.labels.contiguous(), "logits": self.logits.contiguous()}
        with files.whole(path) as temporary:
            save_file(tensors, temporary, metadata={"clips": json.dumps([self.keys, self.groups])})


def of(
    clips: Sequence[Clip],
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"],
    logits: Float[Tensor, "clips classes"],
) -> Predictions:
    """The predictions of these clips, in their order."""
    return Predictions(tuple(clip.key for clip in clips), tuple(clip.group for clip in clips), labels, logits)


def load(path: Path) -> Predictions:
    """What `save` wrote."""
    with safe_open(path, framework="pt") as file:
        keys, groups = json.loads(file.metadata()["clips"])
        return Predictions(tuple(keys), tuple(groups), file.get_tensor("labels"), file.get_tensor("logits"))


def common(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Both on the clips that both have, in one order: a backbone may have left out what another can embed."""
    if one.keys == other.keys:
        return one, other
    rows = [{key: row for row, key in enumerate(each.keys)} for each in (one, other)]
    both = [key for key in one.keys if key in rows[1]]
    return _rows(one, [rows[0][key] for key in both]), _rows(other, [rows[1][key] for key in both])


def _rows(predictions: Predictions, rows: Sequence[int]) -> Predictions:
    return Predictions(
        tuple(predictions.keys[row] for row in rows),
        tuple(predictions.groups[row] for row in rows),
        predictions.labels[list(rows)],
        predictions.logits[list(rows)],
    )


def join(parts: Sequence[Predictions]) -> Predictions:
    """One after another, as the validation sides of several folds are."""
    return Predictions(
        tuple(key for part in parts for key in part.keys),
        tuple(group for part in parts for group in part.groups),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.logits for part in parts]),
    )
