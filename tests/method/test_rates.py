"""Rates of stage 1: a half cosine, a share of the rate for each layer further down, and what stays as it was."""

from pathlib import Path
from typing import Any

import makers
import pytest
import torch
from tiny_encoders import encoder_of, tones

import audioconfit
from audioconfit import encoders, finetune
from audioconfit.encoders import Encoder
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe
from audioconfit.training import Settings

LR = 1e-3


def moved(encoder: Encoder, **settings: Any) -> dict[str, float]:
    """How far the first step of Adam, which is the rate whatever the gradient, moved each part of the encoder."""
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    finetune.train(encoder, tones(batch_size=24), Settings(lr=LR, epochs=1, seed=0, **settings))
    found: dict[str, float] = {}
    for name, parameter in encoder.named_parameters():
        part = part_of(name)
        found[part] = max(found.get(part, 0.0), float((parameter - before[name]).abs().max().detach()))
    return found


def part_of(name: str) -> str:
    for part in ("layers.0.", "layers.1."):
        if f".{part}" in name and "conv" not in name.replace("conv_module", ""):
            return part
    return "below"


@pytest.mark.parametrize(("steps", "share"), [(0, 1.0), (1, 0.0), (2, 0.5), (3, 0.75)])
def test_a_half_cosine_ends_at_0(steps: int, share: float) -> None:
    found = moved(encoder_of("wav2vec2"), decay_steps=steps)
    assert found["layers.1."] == pytest.approx(LR * share, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("architecture", ["wav2vec2", "wavlm", "whisper", "audio-spectrogram-transformer"])
def test_each_layer_has_a_share_of_the_rate_of_the_one_above(architecture: str) -> None:
    found = moved(encoder_of(architecture), lr_decay=0.5)
    expected = {"layers.1.": LR, "layers.0.": LR / 2, "below": LR / 4}
    for part, rate in expected.items():
        # What normalises behind the last layer has the whole rate, and is nobody's layer.
        assert found[part] == pytest.approx(
            LR if part == "below" and architecture not in ("wav2vec2", "wavlm") else rate, rel=1e-2
        )


@pytest.mark.parametrize(
    ("what", "still"), [("conv", {"below"}), (1, {"below", "layers.0."}), (0, {"below"}), (None, set())]
)
def test_what_is_frozen_stays(what: int | str | None, still: set[str]) -> None:
    encoder = encoder_of("wav2vec2")
    encoder.freeze(what)
    found = moved(encoder)
    assert {part for part, far in found.items() if far == 0} == still


@pytest.mark.parametrize(("count", "trained"), [(1, {"layers.1.", "layer_norm"}), (2, set())])
def test_the_norm_behind_the_last_layer_goes_with_that_layer(count: int, trained: set[str]) -> None:
    encoder = encoder_of("whisper")
    encoder.freeze(count)
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {
        part
        for part in ("layers.0.", "layers.1.", "conv1", "conv2", "layer_norm")
        if any(name.startswith(f"model.{part}") for name in names)
    } == trained


def test_a_recipe_brings_rates_and_refuses_layers_that_are_not_there(tmp_path: Path) -> None:
    corpus = makers.tones(tmp_path / "tones", classes=2, clips=5, seconds=0.3)
    how: dict[str, Any] = {"backbone": "wav2vec2-random", "epochs": 1, "batch_size": 4, "chunk_seconds": 0.25}
    how |= {"progress": False, "prepared": tmp_path / "prepared", "mining": "none"}
    model = audioconfit.fit(str(corpus), freeze="conv", schedule="cosine", warmup=0.1, backbone_lr_decay=0.9, **how)
    before, after = encoders.load("wav2vec2-random").state_dict(), model.encoder.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if ".layers." in name and "conv" not in name
    }
    with pytest.raises(InputError, match=r"freeze=3: wav2vec2-random has 2 layers"):
        audioconfit.fit(str(corpus), freeze=3, **how)


def test_a_recipe_without_rates_is_the_one_it_was() -> None:
    plain = Recipe(dataset="d", fingerprint="f", backbone="wav2vec2")
    assert not {"schedule", "backbone_lr_decay", "freeze", "warmup", "probe_balance"} & plain.settings.keys()
    assert plain.model_copy(update={"freeze": "conv"}).stage_key != plain.stage_key
    assert plain.model_copy(update={"probe_balance": "weights"}).stage_key == plain.stage_key
