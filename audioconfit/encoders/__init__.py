"""Encoders: pre-trained backbones that turn a waveform into one embedding. The only importer of transformers.

Here: which backbones exist, and how to get one. Where weights come from is in weights.py, the forward pass in
encoder.py; chunks and the extraction of features are in audioconfit/features.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from audioconfit.encoders import weights
from audioconfit.encoders.encoder import Encoder

__all__ = ["BACKBONES", "Backbone", "Encoder", "backbone", "load"]


@dataclass(frozen=True)
class Backbone:
    """Where an encoder's weights come from, and the stage-1 learning rate that suits them."""

    name: str
    source: str  # a hub id ("org/name"), a local folder, or "random:<architecture>"
    lr: float = 5e-5  # the paper, section 3.2


BACKBONES = {
    known.name: known
    for known in (
        Backbone("wav2vec2", "facebook/wav2vec2-base"),
        Backbone("hubert", "facebook/hubert-base-ls960"),
        Backbone("wavlm", "microsoft/wavlm-base"),
        Backbone("wav2vec2-tiny", "random:wav2vec2", lr=3e-3),
        Backbone("hubert-tiny", "random:hubert", lr=3e-3),
        Backbone("wavlm-tiny", "random:wavlm", lr=3e-3),
        Backbone("wav2vec2-random", "random:wav2vec2", lr=3e-3),
        Backbone("hubert-random", "random:hubert", lr=3e-3),
        Backbone("wavlm-random", "random:wavlm", lr=3e-3),
    )
}


def backbone(name: str) -> Backbone:
    """A known short name, a local folder with a model in transformers' format, or any hub id "org/name"."""
    if name in BACKBONES:
        return BACKBONES[name]
    if (name and Path(name).is_dir()) or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return Backbone(name, source=name)
    raise ValueError(
        f"Unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}, a hub id such as facebook/wav2vec2-large, "
        f"or the path of an existing folder with config.json and model.safetensors."
    )


def fingerprint(name: str) -> str:
    """What tells a backbone's weights from others under the same name, fetched if need be, without loading them.

    The content hash of a local folder, the hub's commit of a downloaded one, "" for seeded random ones. ValueError:
    weights that cannot be had; better now than in the middle of a sweep.
    """
    source = backbone(name).source
    if source.startswith("random:"):
        return ""
    return weights.digest(Path(source)) if Path(source).is_dir() else weights.download(source).name


def load(name: str, *, seed: int = 0, spec_augment: bool = False, layer_drop: bool = False) -> Encoder:
    """The encoder of a backbone, on the CPU, in float32, in evaluation mode.

    `seed` draws the weights that no file holds: all those of the random backbones. `spec_augment` and `layer_drop` switch
    on what the backbone's configuration does in training mode, with its own probabilities; SpecAugment then draws from
    NumPy's global generator. ValueError: an unknown name, an architecture other than the three, weights that cannot be
    had or do not fit.
    """
    source = backbone(name).source
    if source.startswith("random:"):
        model, normalise = weights.tiny(source.removeprefix("random:"), seed=seed), None
    else:
        folder = Path(source) if Path(source).is_dir() else weights.download(source)
        model, normalise = weights.read(folder, seed=seed), weights.normalises(folder)
    return Encoder(name, model, normalise=normalise, spec_augment=spec_augment, layer_drop=layer_drop).eval()
