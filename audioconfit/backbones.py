"""Backbones: which there are by name, and where their weights come from. Loads nothing; encoders/ does."""

import re
from dataclasses import dataclass

from audioconfit import files
from audioconfit.errors import InputError


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


def find(name: str) -> Backbone:
    """A known short name, a local folder with a model in transformers' format, or any hub id "org/name"."""
    if name in BACKBONES:
        return BACKBONES[name]
    if files.is_folder(name) or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return Backbone(name, source=name)
    raise InputError(
        f"Unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}, a hub id such as facebook/wav2vec2-large, "
        f"or the path of an existing folder with config.json and model.safetensors."
    )
