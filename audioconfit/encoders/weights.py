"""Weights: random ones drawn from a seed, a hub repository's, a folder's. Runs no code from a checkpoint and refuses
partial matches.
"""

import contextlib
import hashlib
import json
import logging
import math
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import safetensors
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audioconfit import randomness
from audioconfit.audio import SAMPLE_RATE
from audioconfit.errors import InputError

CPU = torch.device("cpu")
# What transformers raises over a configuration that it can make nothing of.
MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, StrictDataclassError)

ARCHITECTURES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    "hubert": (transformers.HubertConfig, transformers.HubertModel),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    "unispeech": (transformers.UniSpeechConfig, transformers.UniSpeechModel),
    "unispeech-sat": (transformers.UniSpeechSatConfig, transformers.UniSpeechSatModel),
    "data2vec-audio": (transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel),
    "wav2vec2-conformer": (transformers.Wav2Vec2ConformerConfig, transformers.Wav2Vec2ConformerModel),
    "sew": (transformers.SEWConfig, transformers.SEWModel),
    "whisper": (transformers.WhisperConfig, WhisperEncoder),
    "audio-spectrogram-transformer": (transformers.ASTConfig, transformers.ASTModel),
    "wav2vec2-bert": (transformers.Wav2Vec2BertConfig, transformers.Wav2Vec2BertModel),
}

# Why others, which people do try, are not taken.
REFUSED = {
    "sew-d": "its attention over pooled frames was not made exact with padding; SEW without the D is taken",
    "clap": "it reads spectrograms of 48 kHz, and audio is prepared at 16 kHz",
}

# The parts of a body as a checkpoint names them, behind the body's own name where a head is saved with it.
BODY = re.compile(
    r"((wav2vec2|hubert|wavlm|unispeech|unispeech_sat|data2vec_audio|wav2vec2_conformer|sew|wav2vec2_bert"
    r"|audio_spectrogram_transformer)\.)?"
    r"(feature_extractor\.conv_layers|feature_projection|encoder|layers|embeddings|conv[12])\."
)


class Unreachable(InputError):  # noqa: N818  (what happened, not what kind of thing it is)
    """The hub cannot be asked, and what is asked for is not in its cache."""


# The shape of the *-random backbones: 0.1 M parameters, and 320 samples a frame like the real ones. A training step of
# 56 x 1 s takes 80 ms on one core. No dropout: so small a network underfits as it is.
SMALL: dict[str, Any] = {
    "conv_dim": (32, 32, 32, 32),
    "conv_kernel": (20, 8, 4, 4),
    "conv_stride": (10, 4, 4, 2),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}


# Of those that have other numbers: the fixed length of Whisper is 1 s, that of AST 1.3 s.
SMALL_OF: dict[str, dict[str, Any]] = {
    "wav2vec2-conformer": SMALL | {"conformer_conv_dropout": 0.0},
    "wav2vec2-bert": {name: SMALL[name] for name in SMALL if "conv" not in name} | {"conformer_conv_dropout": 0.0},
    "whisper": {
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "max_source_positions": 50,
        "dropout": 0.0,
    },
    "audio-spectrogram-transformer": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_length": 128,
        "num_mel_bins": 64,
    },
}
# A checkpoint of all of Whisper has the encoder below these names.
RENAMED = {"whisper": {r"^(model\.)?encoder\.": ""}}


def small(architecture: str, **config: Any) -> PreTrainedConfig:
    """The shape of a random backbone; `config` overrides it."""
    return ARCHITECTURES[architecture][0](**SMALL_OF.get(architecture, SMALL) | config)


def configuration(folder: Path | None) -> PreTrainedConfig:
    """The shape of the backbone in a folder; None, a hub repository that is not here yet: the published base models'.

    InputError where the architecture is another, or has an adapter behind its encoder.
    """
    if folder is None:
        return transformers.Wav2Vec2Config()
    settings = _read_json(folder / "config.json")
    if (architecture := settings.get("model_type")) not in ARCHITECTURES:
        own = "it wants code of its own to be run" if "auto_map" in settings else ""
        reason = REFUSED.get(str(architecture), own)
        raise InputError(
            f"{folder} holds a {architecture!r} model{reason and f' ({reason})'}; choose one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    if settings.get("add_adapter", False):  # HuBERT has no such setting
        raise InputError(f"{folder} has an adapter behind its encoder (add_adapter): choose a backbone without.")
    # Some files on the hub have it on: a step then costs a second forward pass, which `micro_batch` buys where needed.
    settings.pop("gradient_checkpointing", None)
    with _in_words(folder):
        return ARCHITECTURES[architecture][0](**settings)


def check_shape(folder: Path) -> None:
    """InputError where config.json describes no encoder that can be built. Reads no weights and takes no memory."""
    config = configuration(folder)
    with _in_words(folder), randomness.private(0, 0, CPU), torch.device("meta"):
        ARCHITECTURES[config.model_type][1](config)


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """What is raised over a configuration is the file's fault."""
    try:
        yield
    except MISFITS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{folder / 'config.json'} describes no encoder that can be built: {reason}") from error


def downloaded(source: str) -> Path | None:
    """The cached snapshot of a hub repository, without asking the hub."""
    file = huggingface_hub.try_to_load_from_cache(source, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def random(architecture: str, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A small random backbone with the same weights on every machine; `config` overrides its shape."""
    with randomness.private(seed, 0, CPU):  # transformers draws from the global streams
        model = ARCHITECTURES[architecture][1](small(architecture, **config))
    # wav2vec2 and HuBERT are one network: of one seed they would be two names for the same backbone.
    generator = torch.Generator().manual_seed(zlib.crc32(architecture.encode()) + seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("embed_positions"):  # Whisper's sinusoids
                continue
            _draw(name, parameter, generator)
    return model


def _draw(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """With the deviations of transformers' initialisation, which itself differs in the last bit between processors."""
    if name.endswith("bias"):
        parameter.zero_()
    elif name.endswith("original0"):  # weight_norm: the norm of the positional convolution's weight, per tap
        parameter.fill_(math.sqrt(4 / 3))
    elif parameter.dim() > 1 and not name.endswith("gru_rel_pos_const"):
        _draw_uniform(parameter, _limit(name, fan_in=parameter[0].numel()), generator)
    elif name == "masked_spec_embed":
        _draw_uniform(parameter, 1.0, generator)


def _draw_uniform(parameter: Tensor, limit: float, generator: torch.Generator) -> None:
    integers = torch.randint(-(2**23), 2**23, parameter.shape, generator=generator)
    parameter.copy_(integers * (limit / 2**23))


def _limit(name: str, *, fan_in: int) -> float:
    if name.startswith("feature_extractor"):
        return math.sqrt(6 / fan_in)
    if name.startswith("feature_projection"):
        return math.sqrt(1 / fan_in)
    return math.sqrt(3) * 0.02


def described(source: str) -> Path:
    """A hub repository's snapshot in the local cache, of which config.json and its like are fetched and no weights."""
    with quiet():
        return _snapshot(source, ["*config.json"])


def download(source: str) -> Path:
    """A hub repository's snapshot in the local cache: its safetensors where it has them, else its .bin."""
    folder = _snapshot(source, ["*config.json", "model*.safetensors*"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(source, ["*config.json", "pytorch_model*.bin*"])
    if not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        raise _unavailable(source, "it has neither model.safetensors nor pytorch_model.bin")
    return folder


def _snapshot(source: str, patterns: list[str]) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        kind = Unreachable if isinstance(error, LocalEntryNotFoundError) else InputError
        raise _unavailable(source, reason, kind) from error


def _unavailable(source: str, reason: str, kind: type[InputError] = InputError) -> InputError:
    return kind(
        f"No weights for {source!r}: there is no such folder here, and the hub did not give them ({reason}). "
        f"Without a network: put config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin "
        f"from https://huggingface.co/{source} into a folder and pass its path: --backbones /path/to/folder."
    )


def digest(folder: Path) -> str:
    """The hash of a model folder's configuration and weights."""
    files = sorted(path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))
    found = hashlib.sha256()
    for path in files:
        found.update(path.name.encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def check(file: Path, sha256: str) -> None:
    """InputError where a file of the package is not the one that was packed."""
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file} is missing ({error}); install audioconfit again.") from error
    if found != sha256:
        raise InputError(f"{file} is damaged: its SHA-256 is {found}, not {sha256}; install audioconfit again.")


def read(folder: Path, *, seed: int = 0) -> PreTrainedModel:
    """The model in a folder; InputError where the architecture is another, or the weights do not fit config.json."""
    config = configuration(folder)
    _, model_class = ARCHITECTURES[config.model_type]
    try:
        with quiet(), randomness.private(seed, 0, CPU):
            # dtype: else that of the file. weights_only: a .bin is a pickle, and no code may run while it is read.
            model, report = cast(Any, model_class).from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                weights_only=True,
                key_mapping=RENAMED.get(config.model_type),
                output_loading_info=True,
            )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise InputError(f"The weights in {folder} cannot be read: {error}") from error
    _check_fit(folder, missing=report["missing_keys"], unexpected=report["unexpected_keys"])
    return model


def _check_fit(folder: Path, *, missing: set[str], unexpected: set[str]) -> None:
    """Heads on top of the body are of no use here. masked_spec_embed serves SpecAugment alone, and some lack it."""
    lacking = sorted(key for key in missing if key != "masked_spec_embed")
    surplus = sorted(key for key in unexpected if BODY.match(key))
    if lacking or surplus:
        raise InputError(
            f"The weights in {folder} do not fit its config.json: {len(lacking)} missing {lacking[:3]}, {len(surplus)} "
            f"unexpected {surplus[:3]}. Is the folder complete, and all of one model?"
        )


def preprocessing(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json; empty where there is none."""
    file = folder / "preprocessor_config.json"
    return _read_json(file) if file.exists() else {}


def normalises(folder: Path) -> bool | None:
    """Whether preprocessor_config.json asks for zero mean and unit variance; None where it does not say."""
    settings = preprocessing(folder)
    if (rate := settings.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise InputError(f"{folder} expects {rate} Hz, audio is prepared at {SAMPLE_RATE} Hz: choose another backbone.")
    return settings.get("do_normalize")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is needed and cannot be read ({error}); copy it from the backbone's page.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report of the heads left out, and without progress bars, its own and the hub's."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
