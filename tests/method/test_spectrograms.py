"""Encoders of spectrograms: their features as transformers computes them, filling and padding left out."""

import json
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
import tiny_classifiers
import tiny_encoders
import torch
import transformers
from tiny_encoders import encoder_of, noise, shift

import audioconfit
from audioconfit import __main__ as command
from audioconfit import encoders, finetune, pairtune
from audioconfit.classifier import Classifier
from audioconfit.encoders import weights
from audioconfit.encoders.spectrograms import SpectrogramEncoder
from audioconfit.errors import InputError

FILLED = ["whisper", "audio-spectrogram-transformer"]
ARCHITECTURES = [*FILLED, "wav2vec2-bert"]


@pytest.mark.parametrize("samples", [16_000, 9_123, 3_000])
@pytest.mark.parametrize("architecture", FILLED)
def test_the_spectrogram_is_that_of_the_models_own_extractor(architecture: str, samples: int) -> None:
    full: dict[str, Any] = {
        "whisper": (transformers.WhisperFeatureExtractor(), {"max_source_positions": 1500}),
        "audio-spectrogram-transformer": (
            transformers.ASTFeatureExtractor(),
            {"max_length": 1024, "num_mel_bins": 128},
        ),
    }
    extractor, shape = full[architecture]
    encoder = encoder_of(architecture, **shape)
    assert isinstance(encoder, SpectrogramEncoder)
    waveforms = 0.1 * noise(2, 16_000)
    ours = encoder.spectrogram(waveforms, torch.tensor([16_000, samples]))
    rows = [waveforms[0].numpy(), waveforms[1, :samples].numpy()]
    theirs = extractor(rows, sampling_rate=16_000, return_tensors="np")
    expected = torch.from_numpy(np.stack(next(iter(theirs.values()))))
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [16_000, 15_999, 9_123, 3_000, 1_100])  # odd numbers of columns, too
def test_stacked_columns_are_those_of_the_models_own_extractor(samples: int) -> None:
    encoder = encoder_of("wav2vec2-bert")
    assert isinstance(encoder, SpectrogramEncoder)
    waveforms = 0.1 * noise(2, 16_000)
    ours = encoder.spectrogram(waveforms, torch.tensor([16_000, samples]))
    rows = [waveforms[0].numpy(), waveforms[1, :samples].numpy()]
    theirs = transformers.SeamlessM4TFeatureExtractor()(rows, sampling_rate=16_000, return_tensors="pt")
    for row, length in enumerate([16_000, samples]):
        count = int(encoder.frame_count(length))
        assert theirs["attention_mask"][row].sum() == count
        torch.testing.assert_close(ours[row, :count], theirs["input_features"][row, :count], rtol=0, atol=1e-4)


def test_spec_augment_is_refused_where_there_is_none() -> None:
    with pytest.raises(InputError, match="has no SpecAugment"):
        encoders.around("it", weights.random("wav2vec2-bert"), spec_augment=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedding_is_that_of_its_clip_alone(architecture: str) -> None:
    encoder, lengths = encoder_of(architecture), torch.tensor([9000, 5000, 3000])
    waveforms = noise(3, 9000)
    with torch.no_grad():
        together = encoder(waveforms, lengths, every_layer=True)
        last = encoder(waveforms, lengths)
        for row, length in enumerate(lengths):
            alone = encoder(waveforms[row : row + 1, :length], every_layer=True)
            assert shift(together[row], alone[0]) < 2e-6
    assert torch.equal(together[:, -1], last)
    assert together.shape[1] == encoder.layer_count == 3


@pytest.mark.parametrize(("architecture", "frames"), [("whisper", 28), ("audio-spectrogram-transformer", 4)])
def test_the_filling_is_left_out_of_the_mean(architecture: str, frames: int) -> None:
    encoder: Any = encoder_of(
        architecture
    )  # 9000 samples: 28 steps of 320; 54 columns of 160, in them 4 patches 10 apart
    assert encoder.frame_count(9000) == frames
    waveforms, lengths = noise(1, 9000), torch.tensor([9000])
    with torch.no_grad():
        states = encoder.model(encoder.spectrogram(waveforms, lengths)).last_hidden_state[0]
        if architecture == "whisper":
            expected = states[:frames].mean(0)
        else:  # 128 columns hold 12 patches in time, 64 mel bins hold 5 in frequency
            expected = states[2:].unflatten(0, (5, 12))[:, :frames].flatten(0, 1).mean(0)
        torch.testing.assert_close(encoder(waveforms)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [pairtune, finetune])
@pytest.mark.parametrize("architecture", FILLED)
def test_both_methods_train_it(architecture: str, method: object) -> None:
    encoder = encoder_of(architecture)
    told = tiny_encoders.losses_of(encoder, method, epochs=6)
    assert told[-1] < 0.9 * told[0]
    assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("architecture", FILLED)
def test_what_is_too_short_too_long_or_not_there_is_refused(architecture: str) -> None:
    encoder = encoder_of(architecture)
    assert encoder.longest is not None
    assert encoder(noise(1, encoder.longest)).isfinite().all()
    with pytest.raises(InputError, match=r"takes 1(\.\d+)? s at most"):
        encoder(noise(1, encoder.longest + 1))
    assert encoder(noise(1, encoder.receptive_field)).isfinite().all()
    with pytest.raises(InputError, match="one frame takes"):
        encoder(noise(1, encoder.receptive_field - 1))
    with pytest.raises(InputError, match="has no SpecAugment"):
        encoders.around("it", weights.random(architecture), spec_augment=True)


@pytest.mark.parametrize("architecture", FILLED)
def test_it_is_saved_loaded_and_named_but_not_exported(
    architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, path = tiny_classifiers.made(architecture), tiny_classifiers.recording(tmp_path)
    ours.save(tmp_path / "out")
    again = Classifier.load(tmp_path / "out")
    torch.testing.assert_close(again.probabilities(path), ours.probabilities(path), rtol=0, atol=1e-6)
    assert "audioconfit predict" in (tmp_path / "out" / "README.md").read_text()
    assert encoders.layers(str(tmp_path / "out")) == (0, 1, "last")
    assert encoders.longest(str(tmp_path / "out")) == ours.encoder.longest
    for form in ("transformers", "onnx"):
        assert command.main(["export", str(tmp_path / "out"), str(tmp_path / form), "--to", form]) == 2
    assert capsys.readouterr().err.count("use `audioconfit predict`") == 2


def test_a_checkpoint_of_all_of_whisper_gives_its_encoder(tmp_path: Path) -> None:
    shape = weights.small("whisper", decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=60_000)
    whole = transformers.WhisperForConditionalGeneration(shape)
    whole.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path)
    encoders.check(str(tmp_path))
    encoder: Any = encoders.load(str(tmp_path))
    waveforms = noise(1, 16_000)
    expected = whole.eval().model.encoder(encoder.spectrogram(waveforms, torch.tensor([16_000]))).last_hidden_state
    torch.testing.assert_close(encoder(waveforms), expected.mean(1))


def test_a_published_classifier_of_spectrograms_gives_its_body(tmp_path: Path) -> None:
    whole = transformers.ASTForAudioClassification(weights.small("audio-spectrogram-transformer"))
    whole.save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor(mean=-3.0, std=2.0, num_mel_bins=64, max_length=128).save_pretrained(tmp_path)
    encoder = encoders.load(str(tmp_path))
    assert isinstance(encoder, SpectrogramEncoder)
    body, found = whole.audio_spectrogram_transformer.state_dict(), encoder.model.state_dict()
    assert body.keys() == found.keys()
    assert all(torch.equal(body[name], found[name]) for name in body)
    assert (encoder.extractor.mean, encoder.extractor.std) == (-3.0, 2.0)


@pytest.mark.parametrize("architecture", FILLED)
def test_a_fit_of_it_and_a_chunk_that_is_too_long(architecture: str, tmp_path: Path) -> None:
    encoder_of(architecture).save(tmp_path / "backbone")
    tones = makers.tones(tmp_path / "tones", seconds=0.5)
    how: dict[str, Any] = {
        "backbone": str(tmp_path / "backbone"),
        "lr": 3e-3,
        "progress": False,
        "prepared": tmp_path / "p",
    }
    model = audioconfit.fit(str(tones), epochs=1, chunk_seconds=0.25, batch_size=8, layers="all", probe_layer=1, **how)
    assert model.scores["valid_accuracy"] >= 0
    assert json.loads((tmp_path / "backbone" / "config.json").read_text())["model_type"] == architecture
    long = makers.tones(tmp_path / "long", clips=4, seconds=2.0)
    with pytest.raises(InputError, match="choose chunks of at most"):
        audioconfit.fit(str(long), method="frozen", chunk_seconds=1.5, **how)
