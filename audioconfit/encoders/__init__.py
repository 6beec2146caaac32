"""Encoders: pre-trained backbones that turn a waveform into one embedding. The only importer of transformers.

Here: how to get one of audioconfit/backbones.py. Where weights come from is in weights.py, the forward pass in
encoder.py, our own small backbones and their model cards in pretrained/ (their training is audioconfit/pretraining);
chunks and the extraction of features are in audioconfit/features.py.
"""

from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from audioconfit import backbones, randomness
from audioconfit.backbones import Backbone
from audioconfit.encoders import encoder, spectrograms, weights
from audioconfit.encoders.encoder import Encoder
from audioconfit.encoders.weights import Unreachable
from audioconfit.errors import InputError

__all__ = [
    "Encoder",
    "Unreachable",
    "around",
    "check",
    "fingerprint",
    "layers",
    "load",
    "longest",
    "receptive_field",
    "shortest_masked",
    "untrained",
]


PRETRAINED = Path(__file__).parent / "pretrained"


def check(name: str) -> None:
    """Refuses a backbone that its configuration says cannot be used. Fetches no weights, from the hub nothing but
    config.json and preprocessor_config.json.

    InputError: another architecture, sample rate or shape. Unreachable, which is one: the hub cannot be asked.
    """
    known = backbones.find(name)
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
    known = backbones.find(name)
    if known.source.startswith("random:"):
        return ""
    folder = _folder(known)
    return weights.digest(folder) if folder is not None else weights.download(known.source).name


def load(name: str, *, seed: int = 0, spec_augment: bool = False, layer_drop: bool = False) -> Encoder:
    """The encoder of a backbone, on the CPU, in float32, in evaluation mode.

    `seed` draws the weights that no file holds: all those of the random backbones. `spec_augment` and `layer_drop`
    switch on what the backbone's configuration does in training mode, with its own probabilities; SpecAugment then
    draws from NumPy's global generator. InputError: an unknown name, an architecture that is none of ours, weights that
    cannot be had, are damaged or do not fit.
    """
    known = backbones.find(name)
    if known.source.startswith("random:"):
        model, folder = weights.random(known.source.removeprefix("random:"), seed=seed), None
    else:
        folder = _folder(known) or weights.download(known.source)
        model = weights.read(folder, seed=seed)
    return around(name, model, folder=folder, spec_augment=spec_augment, layer_drop=layer_drop)


def untrained(name: str, *, seed: int = 0) -> Encoder:
    """The published shape that a name of ours stands for, with random weights and without a download: for what does not
    depend on weights, such as speed.
    """
    configuration, model = weights.ARCHITECTURES[name]
    with randomness.private(seed, 0, torch.device("cpu")):
        return around(name, model(configuration()))


def around(
    name: str,
    model: PreTrainedModel,
    *,
    folder: Path | None = None,
    spec_augment: bool = False,
    layer_drop: bool = False,
) -> Encoder:
    """The encoder of a model of transformers, in evaluation mode; `folder` has its preprocessor_config.json."""
    drawn = {"spec_augment": spec_augment, "layer_drop": layer_drop}
    if (family := spectrograms.FAMILIES.get(model.config.model_type)) is not None:
        settings = weights.preprocessing(folder) if folder else None
        return family(name, model, settings=settings, **drawn).eval()
    normalise = weights.normalises(folder) if folder else None
    return Encoder(name, model, normalise=normalise, **drawn).eval()


@lru_cache(maxsize=64)
def receptive_field(name: str) -> int:
    """Samples that a backbone's first frame takes; shorter clips cannot be embedded. Loads and downloads no weights."""
    config = _configuration(name)
    if (family := spectrograms.FAMILIES.get(config.model_type)) is not None:
        return family.first_frame(config)
    return encoder.receptive_field(config)


@lru_cache(maxsize=64)
def longest(name: str) -> int | None:
    """Samples that a backbone takes at most; None where there is no limit. Loads and downloads no weights."""
    config = _configuration(name)
    family = spectrograms.FAMILIES.get(config.model_type)
    return None if family is None else family.most(config)


@lru_cache(maxsize=64)
def shortest_masked(name: str) -> int | None:
    """Samples that SpecAugment masks at a time, which a chunk must have; None: this backbone has no SpecAugment. Loads
    and downloads no weights.
    """
    config = _configuration(name)
    if config.model_type in spectrograms.FAMILIES:
        return None
    return encoder.receptive_field(config, frames=config.mask_time_length)


@lru_cache(maxsize=64)
def layers(name: str) -> tuple[int | str, ...]:
    """What a probe can read of a backbone's layers: each by its number, 0 being what enters the first, the last, their
    mean, and their weighted mean. Loads and downloads no weights.

    Of backbones that normalise after the last layer, or undo a pooling there (SEW), there is no mean: the layers before
    are of other scales, and transformers adds them up as they are.
    """
    config = _configuration(name)
    several = () if encoder.ends_apart(config) else ("mean", "weighted")
    return (*range(config.num_hidden_layers), "last", *several)


def _configuration(name: str) -> PreTrainedConfig:
    known = backbones.find(name)
    if known.source.startswith("random:"):
        return weights.small(known.source.removeprefix("random:"))
    return weights.configuration(_folder(known) or weights.downloaded(known.source))


def _folder(known: Backbone) -> Path | None:
    """The folder that a backbone's weights are in, those of the package checked; None for those on the hub."""
    if known.source.startswith("package:"):
        folder = PRETRAINED / known.source.removeprefix("package:")
        weights.check(folder / "model.safetensors", known.sha256)
        return folder
    return Path(known.source) if Path(known.source).is_dir() else None
