"""Enrolling: a class that a model was not trained on, from a few recordings of it and without any training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audioconfit.audio import SCALE
from audioconfit.classifier import Classifier, Recording
from audioconfit.errors import InputError
from audioconfit.handover.trying import Heard
from audioconfit.probe import Probe

KEPT = ("recipe", "signature", "protocol")  # of what a model knows of itself: its scores are those of the old classes


@dataclass(frozen=True)
class Enrolled:
    """The model that knows the class too; of its `clips` how many the others alone would have named so."""

    model: Classifier
    clips: int
    found_again: int


def enrol(model: Classifier, name: str, recordings: Sequence[Recording], *, device: str = "cpu") -> Enrolled:
    """The model with one class more, by the mean embedding of these recordings (`Probe.with_class`).

    Raises:
        InputError: a name that it has or that is empty, a model of label sets, or a recording that cannot be read.
    """
    name = name.strip()
    if not name:
        raise InputError("The new class has an empty name; give it one.")
    if name in model.classes:
        raise InputError(f"The model has a class {name!r} already; give the new one another name.")
    if model.probe.thresholds is not None:
        raise InputError(
            f"The model predicts label sets, and a threshold for {name!r} cannot be told from clips that all carry it; "
            "train it with recordings of that class."
        )
    if not recordings:
        raise InputError(f"There is no recording of {name!r}; give one or more, five are better.")
    embeddings = model.embed(recordings, device=device)
    about = {key: model.about[key] for key in KEPT if key in model.about}
    about["enrolled"] = {**model.about.get("enrolled", {}), name: len(embeddings)}
    probe = model.probe.with_class(name, embeddings)
    enrolled = replace(model, probe=probe, classes=probe.classes, about=about)
    return Enrolled(enrolled, len(embeddings), _found_again(model.probe, name, embeddings))


def _found_again(probe: Probe, name: str, embeddings: Float[Tensor, "clips *layers dim"]) -> int:
    """Each clip in turn by the others; a single one has no others."""
    if len(embeddings) == 1:
        return 0
    found = 0
    for number, one in enumerate(embeddings):
        others = torch.cat([embeddings[:number], embeddings[number + 1 :]])
        found += probe.with_class(name, others).predict(one[None]) == [(name,)]
    return found


def right(model: Classifier, heard: Sequence[Heard], *, device: str = "cpu") -> float:
    """The share of these recordings that the model names right."""
    samples = [np.clip(np.rint(one.samples * SCALE), -SCALE, SCALE - 1).astype(np.int16) for one in heard]
    predicted = model.probe.predict(model.embed_samples(samples, device))
    return sum(said == one.labels for said, one in zip(predicted, heard, strict=True)) / len(heard)
