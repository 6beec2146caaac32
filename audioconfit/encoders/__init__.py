"""Encoders: pre-trained backbones that turn a waveform into one embedding. The only importer of transformers.

Here: which backbones exist, and how to get one. Where weights come from is in weights.py, the forward pass in
encoder.py, our own small backbones and their model cards in pretrained/ (their training is audioconfit/pretraining);
chunks and the extraction of features are in audioconfit/features.py.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from audioconfit.encoders import encoder, weights
from audioconfit.encoders.encoder import Encoder
from audioconfit.encoders.weights import Unreachable
from audioconfit.errors import InputError

__all__ = ["BACKBONES", "Backbone", "Encoder", "Unreachable", "backbone", "check", "load", "receptive_field"]


@dataclass(frozen=True)
class Backbone:
    """Where an encoder's weights come from, and the stage-1 learning rate that suits them."""

    name: str
    source: str  # a hub id ("org/name"), a local folder, "package:<folder in pretrained/>", "random:<architecture>"
    lr: float = 5e-5  # the paper, section 3.2
    sha256: str = ""  # of the packaged model.safetensors


# SHA-256 of the packaged model.safetensors.
WAV2VEC2_TINY = "0d5085842b22dba2a77db760403d6cf877c0ba31a2bc0c93db1631c8c01ab6b7"
HUBERT_TINY = "0b8f2f5b9736baef194da1e7d0136bc38777f5f1fceccf737d5d8b0dc2292af9"
WAVLM_TINY = "f4c5bd313036f0a56d080281ada06a3c8586a52c1a535c2f8795224be1c095f8"
TINY_LR = 1e-3  # of 3e-4, 1e-3 and 3e-3 the one with the best validation score of PairTune on EmoDB

BACKBONES = {
    known.name: known
    for known in (
        Backbone("wav2vec2", "facebook/wav2vec2-base"),
        Backbone("hubert", "facebook/hubert-base-ls960"),
        Backbone("wavlm", "microsoft/wavlm-base"),
        Backbone("wav2vec2-tiny", "package:wav2vec2-tiny", TINY_LR, WAV2VEC2_TINY),
        Backbone("hubert-tiny", "package:hubert-tiny", TINY_LR, HUBERT_TINY),
        Backbone("wavlm-tiny", "package:wavlm-tiny", TINY_LR, WAVLM_TINY),
        Backbone("wav2vec2-random", "random:wav2vec2", lr=3e-3),
        Backbone("hubert-random", "random:hubert", lr=3e-3),
        Backbone("wavlm-random", "random:wavlm", lr=3e-3),
    )
}


PRETRAINED = Path(__file__).parent / "pretrained"


def backbone(name: str) -> Backbone:
    """A known short name, a local folder with a model in transformers' format, or any hub id "org/name"."""
    if name in BACKBONES:
        return BACKBONES[name]
    if (name and Path(name).is_dir()) or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return Backbone(name, source=name)
    raise InputError(
        f"Unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}, a hub id such as facebook/wav2vec2-large, "
        f"or the path of an existing folder with config.json and model.safetensors."
    )


def check(name: str) -> None:
    """Refuses a backbone that its configuration says cannot be used. Fetches no weights, from the hub nothing but
    config.json and preprocessor_config.json.

    InputError: another architecture, sample rate or shape. Unreachable, which is one: the hub cannot be asked.
    """
    known = backbone(name)
    if known.source.startswith("random:"):
        return
    folder = _folder(known) or weights.described(known.source)
    try:
        weights.check_shape(folder)
        weights.normalises(folder)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), known.source)) from error


def fingerprint(name: str) -> str:
    """What tells a backbone's weights from others under the same name, fetched if need be, without loading them.

    The content hash of a folder, the hub's commit of a downloaded one, "" for seeded random ones. InputError:
    weights that cannot be had; better now than in the middle of a sweep.
    """
    known = backbone(name)
    if known.source.startswith("random:"):
        return ""
    folder = _folder(known)
    return weights.digest(folder) if folder is not None else weights.download(known.source).name


def load(name: str, *, seed: int = 0, spec_augment: bool = False, layer_drop: bool = False) -> Encoder:
    """The encoder of a backbone, on the CPU, in float32, in evaluation mode.

    `seed` draws the weights that no file holds: all those of the random backbones. `spec_augment` and `layer_drop`
    switch on what the backbone's configuration does in training mode, with its own probabilities; SpecAugment then
    draws from NumPy's global generator. InputError: an unknown name, an architecture other than the three, weights that
    cannot be had, are damaged or do not fit.
    """
    known = backbone(name)
    if known.source.startswith("random:"):
        model, normalise = weights.random(known.source.removeprefix("random:"), seed=seed), None
    else:
        folder = _folder(known) or weights.download(known.source)
        model, normalise = weights.read(folder, seed=seed), weights.normalises(folder)
    return Encoder(name, model, normalise=normalise, spec_augment=spec_augment, layer_drop=layer_drop).eval()


@lru_cache(maxsize=64)
def receptive_field(name: str) -> int:
    """Samples that a backbone's first frame takes; shorter clips cannot be embedded. Loads and downloads no weights."""
    known = backbone(name)
    if known.source.startswith("random:"):
        config = weights.small(known.source.removeprefix("random:"))
    else:
        config = weights.configuration(_folder(known) or weights.downloaded(known.source))
    return encoder.receptive_field(config.conv_kernel, config.conv_stride)


def _folder(known: Backbone) -> Path | None:
    """The folder that a backbone's weights are in, those of the package checked; None for those on the hub."""
    if known.source.startswith("package:"):
        folder = PRETRAINED / known.source.removeprefix("package:")
        weights.check(folder / "model.safetensors", known.sha256)
        return folder
    return Path(known.source) if Path(known.source).is_dir() else None
