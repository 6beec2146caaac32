"""Architectures beside the paper's three: exact with padding, trained, saved and handed over like these."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny_classifiers
import tiny_encoders
import torch
import transformers
from tiny_encoders import LARGE, encoder_of, noise, shift

from audioconfit import __main__ as command
from audioconfit import encoders, finetune, pairtune
from audioconfit.classifier import Classifier
from audioconfit.encoders.layers import standardise
from audioconfit.errors import InputError

ARCHITECTURES = ["unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer", "sew", "wav2vec2-bert"]


def made(architecture: str, *, large: bool = False) -> encoders.Encoder:
    stacked = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7} if architecture == "data2vec-audio" else {}
    return encoder_of(architecture, **stacked, **(LARGE if large else {}))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedding_is_that_of_its_clip_alone(architecture: str, large: bool) -> None:
    encoder = made(architecture, large=large)
    lengths = torch.tensor([9000, 5000, 3400])  # 26, 14 and 9 frames: SEW pools an odd one, too
    waveforms = noise(3, 9000)
    with torch.no_grad():
        together = encoder(waveforms, lengths, every_layer=True)
        full = encoder(waveforms, torch.tensor([9000] * 3))
        unmasked = encoder(waveforms)
        for row, length in enumerate(lengths):
            alone = encoder(waveforms[row : row + 1, :length], every_layer=True)
            assert shift(together[row], alone[0]) < 2e-6
    assert shift(full, unmasked) < 2e-6


@pytest.mark.parametrize("method", [pairtune, finetune])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_methods_train_it(architecture: str, method: object) -> None:
    # wav2vec2-BERT takes away each band's mean, and a tone is little else: it learns from what is left, more slowly.
    slowly = {"warmup_steps": 10, "epochs": 30} if architecture == "wav2vec2-bert" else {}
    told = tiny_encoders.losses_of(made(architecture), method, **slowly)
    assert told[-1] < 0.8 * told[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_saved_loaded_and_named_as_transformers_does(architecture: str, tmp_path: Path) -> None:
    ours, path = tiny_classifiers.made(architecture), tiny_classifiers.recording(tmp_path)
    ours.save(tmp_path / "out")
    expected = ours.probabilities(path)
    torch.testing.assert_close(Classifier.load(tmp_path / "out").probabilities(path), expected, rtol=0, atol=1e-6)
    samples = {"raw": soundfile.read(path, dtype="float32")[0], "sampling_rate": 16_000}
    classify = transformers.pipeline("audio-classification", model=str(tmp_path / "out"), device="cpu")
    said = {row["label"]: row["score"] for row in classify(samples, top_k=None)}
    torch.testing.assert_close(torch.tensor([said[name] for name in ours.classes]), expected, rtol=0, atol=1e-4)
    ends_apart = architecture in ("sew", "wav2vec2-conformer")
    assert encoders.layers(str(tmp_path / "out"))[-1] == ("last" if ends_apart else "weighted")


def test_a_classifier_of_one_of_sews_pooled_layers_is_saved_in_our_form(tmp_path: Path) -> None:
    ours, path = tiny_classifiers.made("sew"), tiny_classifiers.recording(tmp_path)
    ours = replace(ours, probe=replace(ours.probe, layers=torch.tensor([0.0, 1.0, 0.0])))
    ours.save(tmp_path / "out")
    expected = ours.probabilities(path)
    torch.testing.assert_close(Classifier.load(tmp_path / "out").probabilities(path), expected, rtol=0, atol=1e-6)
    assert command.main(["export", str(tmp_path / "out"), str(tmp_path / "more"), "--to", "transformers"]) == 2


def test_wav2vec2_bert_has_no_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_classifiers.made("wav2vec2-bert").save(tmp_path / "out")
    assert command.main(["export", str(tmp_path / "out"), str(tmp_path / "graph"), "--to", "onnx"]) == 2
    assert "There is no ONNX graph of the spectrogram" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_with_a_head_or_of_another_depth_is_told_by_its_names(architecture: str, tmp_path: Path) -> None:
    tiny_classifiers.made(architecture).save(tmp_path / "out")  # the body's names have the body's own name before them
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"do not fit its config\.json"):
        encoders.load(str(tmp_path / "out"))


def test_sew_is_that_of_transformers_for_odd_frames_too() -> None:
    encoder = encoder_of("sew")
    waveforms, lengths = noise(2, 3900), torch.tensor([3900, 3400])  # 11 and 9 frames; five and four pairs of them
    expected = []
    for row, length in zip(waveforms, lengths.tolist(), strict=True):
        output = encoder.model(standardise(row[None, :length]), output_hidden_states=True)
        last = output.last_hidden_state
        assert not last[0, -1].any()  # the frame that is left over
        repeated = [hidden.repeat_interleave(2, dim=1).sum(1) / last.shape[1] for hidden in output.hidden_states[:2]]
        expected.append(torch.stack([*repeated, last.mean(1)], dim=1)[0])
    found = encoder(waveforms, lengths, every_layer=True)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "clap"}, "it reads spectrograms of 48 kHz, and audio is prepared at 16 kHz"),
        ({"model_type": "sew-d"}, "SEW without the D is taken"),
        ({"model_type": "mert_model", "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}, "code of its own"),
        (
            {"model_type": "bert"},
            "choose one of wav2vec2, hubert, wavlm, unispeech, unispeech-sat, data2vec-audio, wav2vec2-conf",
        ),
    ],
)
def test_others_are_refused_with_the_reason(settings: dict[str, object], reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    began = time.process_time()
    with pytest.raises(InputError, match=reason):
        encoders.check(str(tmp_path))
    assert time.process_time() - began < 2.0  # no weights were fetched: there are none
