"""PairTune: real tiny encoders on tones; every layer learns, the projector is thrown away."""

from pathlib import Path

import pytest
import torch
from tiny_encoders import losses_of, tones
from torch import nn

from audioconfit import encoders, finetune, pairtune, training
from audioconfit.training import Settings


@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
@pytest.mark.parametrize("method", [pairtune, finetune])
def test_tiny_backbones_learn_to_tell_tones_apart(name: str, method: object) -> None:
    told = losses_of(encoders.load(name), method)
    assert told[-1] < 0.9 * told[0]


def test_every_layer_is_trained() -> None:
    encoder = encoders.load("wav2vec2-random")
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    losses_of(encoder, epochs=1)
    unmoved = {name for name, parameter in encoder.named_parameters() if torch.equal(parameter, before[name])}
    assert unmoved == {"model.masked_spec_embed"}  # SpecAugment's, which is off


def test_the_projector_reads_the_layer_that_it_is_told_to() -> None:
    layers = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    read = {}
    for layer in (0, 1, "mean", "weighted"):
        projector = pairtune.Projector(2, 2, layer=layer, layers=3)
        nn.init.eye_(projector.linear.weight)
        nn.init.zeros_(projector.linear.bias)
        if layer == "weighted":
            projector.mix.data = torch.tensor([0.0, 0.0, -torch.inf])
        read[layer] = projector(layers)[0].tolist()
    assert read[0] == [1.0, 0.0]
    assert read[1] == [0.0, 1.0]
    assert read["mean"] == pytest.approx([0.4472, 0.8944], abs=1e-4)  # (2, 4) by its length
    assert read["weighted"] == pytest.approx([0.3162, 0.9487], abs=1e-4)  # (1, 3) by its length: the third weighs 0


def test_layers_above_the_one_that_the_loss_reads_stay_as_they_are() -> None:
    moved = {}
    for layer in (1, "weighted"):
        encoder = encoders.load("wav2vec2-random")
        before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
        losses_of(encoder, epochs=1, layer=layer)
        moved[layer] = {
            name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])
        }
    top = f"model.encoder.layers.{encoder.layer_count - 2}."
    assert not any(name.startswith(top) for name in moved[1])
    assert any(name.startswith("model.encoder.layers.0.") for name in moved[1])
    assert any(name.startswith(top) for name in moved["weighted"])


def test_the_projector_is_thrown_away() -> None:
    encoder = encoders.load("wav2vec2-random")
    before = list(encoder.state_dict())
    losses_of(encoder, epochs=1)
    assert list(encoder.state_dict()) == before


@pytest.mark.parametrize(
    "settings", [{"mining": "hardest"}, {"mining": "none"}, {"keep_denominator": True}, {"margin": 1.0}]
)
def test_each_choice_of_pairs_changes_what_is_learned(settings: dict) -> None:
    chosen, default = encoders.load("wav2vec2-random"), encoders.load("wav2vec2-random")
    assert losses_of(chosen, epochs=1, **settings) != losses_of(default, epochs=1)


def test_two_views_and_label_sets_are_trained_on() -> None:
    told = losses_of(encoders.load("wav2vec2-random"), batches=tones(views=2, multi_label=True))
    assert told[-1] < 0.9 * told[0]


def test_the_same_seed_gives_the_same_losses_and_resuming_too(tmp_path: Path) -> None:
    settings = {"epochs": 2, "micro_batch": 5}
    once = losses_of(encoders.load("wavlm-random", spec_augment=False, layer_drop=True), **settings)
    encoder = encoders.load("wavlm-random", layer_drop=True)
    checkpoint = tmp_path / "run.pt"
    pairtune.train(
        encoder,
        tones(),
        Settings(lr=3e-3, seed=0, report=lambda epoch, _: epoch < 1, checkpoint=checkpoint, **settings),
    )
    again = losses_of(encoders.load("wavlm-random", layer_drop=True), checkpoint=checkpoint, **settings)
    assert again == once


def test_bf16_meets_the_projector_and_the_loss_in_float32() -> None:
    class Watched(nn.Module):
        seen: torch.dtype | None = None

        def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
            Watched.seen = embeddings.dtype
            assert not torch.is_autocast_enabled("cpu")
            return embeddings

    training.fit(
        encoders.load("wav2vec2-random"), Watched(), lambda outputs, labels: outputs.square().mean(),
        tones(), Settings(lr=1e-4, epochs=1, seed=0, precision="bf16"),
    )  # fmt: skip
    assert Watched.seen == torch.float32
