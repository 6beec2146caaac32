"""LoRA: adapters of low rank are trained in place of an encoder's weights, and become part of them."""

import importlib.util
from pathlib import Path
from typing import Any

import makers
import pytest
import torch
from tiny_encoders import encoder_of, losses_of, noise, shift, tones

import audioconfit
from audioconfit import caching, encoders, finetune, pairtune
from audioconfit.encoders import Encoder, adapters, weights
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe
from audioconfit.training import Settings

SAMPLES, LENGTHS = 9000, torch.tensor([9000, 5000])


def embed(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(noise(2, SAMPLES), LENGTHS)


def adapted(architecture: str, **how: Any) -> Encoder:
    encoder = encoder_of(architecture)
    adapters.attach(encoder, **{"rank": 4, "seed": 0} | how)
    return encoder


def trained_parts(encoder: Encoder) -> list[str]:
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("architecture", weights.ARCHITECTURES)
def test_adapters_begin_as_nothing_and_end_in_the_weights(architecture: str) -> None:
    plain, encoder = encoder_of(architecture), adapted(architecture)
    # Two matrices each: query, key, value, output and two of the feed-forward block; a conformer has two such blocks.
    assert len(trained_parts(encoder)) == 2 * 2 * (8 if architecture in ("wav2vec2-conformer", "wav2vec2-bert") else 6)
    assert shift(embed(encoder), embed(plain)) < 2e-6
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * noise(*parameter.shape))
    moved = embed(encoder)
    assert shift(moved, embed(plain)) > 1e-2
    adapters.merge(encoder)
    assert shift(embed(encoder), moved) < 2e-6
    assert list(encoder.state_dict()) == list(plain.state_dict())


def test_the_change_is_the_product_of_both_matrices_times_16_by_the_rank() -> None:
    plain, encoder = encoder_of("wav2vec2"), adapted("wav2vec2", rank=2)
    layer: Any = encoder.model.get_submodule("encoder.layers.1.attention.q_proj")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape == (2, 64)
    assert up.shape == (64, 2)
    with torch.no_grad():
        up.fill_(0.5)  # a rank of 2: each row gains 16 / 2 x 0.5 x (the sum of down's two rows)
    adapters.merge(encoder)
    name = "model.encoder.layers.1.attention.q_proj.weight"
    change = encoder.state_dict()[name] - plain.state_dict()[name]
    torch.testing.assert_close(change, 4 * down.detach().sum(0).expand(64, 64), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [pairtune, finetune])
def test_both_methods_train_adapters_alone(training: object) -> None:
    plain, encoder = encoder_of("hubert").state_dict(), adapted("hubert")
    told = losses_of(encoder, training)
    assert told[-1] < 0.9 * told[0]
    adapters.merge(encoder)
    changed = {name for name, found in encoder.state_dict().items() if not torch.equal(found, plain[name])}
    assert len(changed) == 12
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} <= set(adapters.ADAPTED)


def test_a_frozen_layer_has_no_adapter_that_is_trained_and_lower_ones_have_a_share_of_the_rate() -> None:
    encoder = adapted("wav2vec2")
    encoder.freeze(1)
    assert {".layers.1." in name for name in trained_parts(encoder)} == {True}
    encoder = adapted("wav2vec2")
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    finetune.train(encoder, tones(batch_size=24), Settings(lr=1e-3, epochs=1, seed=0, lr_decay=0.5))
    for layer, rate in {0: 5e-4, 1: 1e-3}.items():
        far = [
            (found.detach() - before[name]).abs().max().item()
            for name, found in encoder.named_parameters()
            if f"layers.{layer}." in name and "lora_B" in name
        ]
        assert max(far) == pytest.approx(rate, rel=1e-2)


def test_weights_that_are_not_trained_are_no_activations() -> None:
    encoder, (batch,) = adapted("wav2vec2"), list(tones(batch_size=24).epoch(1))

    def kept(parameters: list[torch.nn.Parameter]) -> int:
        return caching._kept_bytes(
            lambda piece: encoder(piece.waveforms, piece.lengths), batch.pieces(1)[0], parameters
        )

    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    last_layer = 4 * (4 * 64 * 64 + 2 * 64 * 128)  # bytes of float32 that lead the gradient on to the layer below
    assert kept(trained) - kept(list(encoder.parameters())) >= last_layer


@pytest.mark.parametrize("how", [{"method": "pairtune"}, {"method": "finetune"}])
def test_a_fit_leaves_a_plain_encoder_and_its_own_features(how: dict[str, Any], tmp_path: Path) -> None:
    corpus = makers.tones(tmp_path / "tones", classes=2, clips=5, seconds=0.3)
    common: dict[str, Any] = {"backbone": "wav2vec2-random", "epochs": 1, "batch_size": 4, "chunk_seconds": 0.25}
    common |= {"progress": False, "prepared": tmp_path / "prepared", "mining": "none", "lr": 1e-2, "warmup_steps": 0}
    model = audioconfit.fit(str(corpus), tune="lora", lora_rank=2, **how, **common)
    before, after = encoders.load("wav2vec2-random").state_dict(), model.encoder.state_dict()
    assert list(after) == list(before)
    assert len({name for name in before if not torch.equal(before[name], after[name])}) == 12
    model.save(tmp_path / "out")
    again = audioconfit.load(tmp_path / "out")
    assert shift(embed(again.encoder), embed(model.encoder)) == 0
    for wrong, said in {
        ("lora", 8, "conv"): "changes nothing with tune=lora",
        ("lora", 8, 2): r"nothing of wav2vec2-random is trained",
        ("full", 4, None): "lora_rank=4 changes nothing without tune=lora",
    }.items():
        tune, rank, freeze = wrong
        with pytest.raises(InputError, match=said):
            audioconfit.fit(str(corpus), tune=tune, lora_rank=rank, freeze=freeze, **common)


def test_without_peft_it_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    with pytest.raises(InputError, match=r"pip install 'audioconfit\[lora\]'"):
        adapted("wav2vec2")


def test_a_recipe_of_full_tuning_is_the_one_it_was() -> None:
    plain = Recipe(dataset="d", fingerprint="f", backbone="wav2vec2")
    assert not {"tune", "lora_rank"} & plain.settings.keys()
    lora = plain.model_copy(update={"tune": "lora"})
    assert len({plain.stage_key, lora.stage_key, lora.model_copy(update={"lora_rank": 4}).stage_key}) == 3
