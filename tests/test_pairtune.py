"""PairTune: real tiny encoders on tones; every layer learns, the projector is thrown away."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audioconfit import encoders, finetune, pairtune, training
from audioconfit.audio import SAMPLE_RATE
from audioconfit.batches import Batches
from audioconfit.corpora import Clip

HERTZ = {"low": 200, "middle": 400, "high": 800}


def tones(seconds: float = 0.25, **settings: object) -> Batches:
    """Eight noisy clips of each of three pitches; one of each is shorter than the others."""
    draw = np.random.default_rng(0)
    waveforms, clips = {}, []
    for label, hertz in HERTZ.items():
        for number in range(8):
            time = np.arange(round(seconds * SAMPLE_RATE * (0.7 if number == 0 else 1))) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * hertz * time + draw.uniform(0, 6)) + draw.normal(0, 0.5, len(time))
            waveforms[f"{label}{number}"] = (6000 * tone).astype(np.int16)
            clips.append(Clip(key=f"{label}{number}", path=Path(label), labels=(label,)))
    return Batches(waveforms, clips, tuple(HERTZ), **{"batch_size": 12, "chunk_seconds": 0.2, "seed": 0} | settings)


def losses_of(encoder: encoders.Encoder, method: object = pairtune, batches: Batches | None = None, **settings: object):
    """The loss of each epoch."""
    told: list[float] = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        told.extend(metrics[name] for name in ["loss"] if name in metrics)
        return True

    settings = {"lr": 3e-3, "epochs": 15, "seed": 0, "report": report} | settings
    assert method.train(encoder, batches or tones(), **settings)
    return told


@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
@pytest.mark.parametrize("method", [pairtune, finetune])
def test_tiny_backbones_learn_to_tell_tones_apart(name: str, method: object):
    told = losses_of(encoders.load(name), method)
    assert told[-1] < 0.9 * told[0]


def test_every_layer_is_trained():
    encoder = encoders.load("wav2vec2-random")
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    losses_of(encoder, epochs=1)
    unmoved = {name for name, parameter in encoder.named_parameters() if torch.equal(parameter, before[name])}
    assert unmoved == {"model.masked_spec_embed"}  # SpecAugment's, which is off


def test_the_projector_is_thrown_away():
    encoder = encoders.load("wav2vec2-random")
    before = list(encoder.state_dict())
    losses_of(encoder, epochs=1)
    assert list(encoder.state_dict()) == before


@pytest.mark.parametrize(
    "settings", [{"mining": "hardest"}, {"mining": "none"}, {"keep_denominator": True}, {"margin": 1.0}]
)
def test_each_choice_of_pairs_changes_what_is_learned(settings: dict):
    chosen, default = encoders.load("wav2vec2-random"), encoders.load("wav2vec2-random")
    assert losses_of(chosen, epochs=1, **settings) != losses_of(default, epochs=1)


def test_two_views_and_label_sets_are_trained_on():
    told = losses_of(encoders.load("wav2vec2-random"), batches=tones(views=2, multi_label=True))
    assert told[-1] < 0.9 * told[0]


def test_the_same_seed_gives_the_same_losses_and_resuming_too(tmp_path: Path):
    settings = {"epochs": 2, "micro_batch": 5}
    once = losses_of(encoders.load("wavlm-random", spec_augment=False, layer_drop=True), **settings)
    encoder = encoders.load("wavlm-random", layer_drop=True)
    checkpoint = tmp_path / "run.pt"
    pairtune.train(
        encoder, tones(), lr=3e-3, seed=0, report=lambda epoch, _: epoch < 1, checkpoint=checkpoint, **settings
    )
    again = losses_of(encoders.load("wavlm-random", layer_drop=True), checkpoint=checkpoint, **settings)
    assert again == once


def test_bf16_meets_the_projector_and_the_loss_in_float32():
    class Watched(nn.Module):
        seen: torch.dtype | None = None

        def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
            Watched.seen = embeddings.dtype
            assert not torch.is_autocast_enabled("cpu")
            return embeddings

    training.fit(
        encoders.load("wav2vec2-random"), Watched(), lambda outputs, labels: outputs.square().mean(),
        tones(), lr=1e-4, epochs=1, seed=0, precision="bf16",
    )  # fmt: skip
    assert Watched.seen == torch.float32


def test_the_cpu_computes_in_fp32():
    assert training.best_precision("cpu") == "fp32"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_encoder_learns_the_same():
    compiled = losses_of(encoders.load("wav2vec2-random"), epochs=1, compile=True)
    assert compiled == pytest.approx(losses_of(encoders.load("wav2vec2-random"), epochs=1), rel=1e-3)
