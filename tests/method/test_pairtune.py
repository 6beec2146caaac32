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


def test_the_cpu_computes_in_fp32() -> None:
    assert training.best_precision("cpu") == "fp32"
