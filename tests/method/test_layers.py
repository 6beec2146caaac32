"""Layers: embeddings of every layer from one pass, and probes that read one, the mean, or a learned mean of them."""

import json
from pathlib import Path

import jaxtyping
import makers
import pytest
import torch
import transformers
from tiny_encoders import encoder_of, noise, shift

import audioconfit
from audioconfit import encoders, features, figures, method, probe
from audioconfit.classifier import Classifier
from audioconfit.corpora import Clip
from audioconfit.errors import InputError
from audioconfit.features import Features
from audioconfit.handover import onnx_graph
from audioconfit.recipe import Recipe
from audioconfit.splits import Split

ARCHITECTURES = ["wav2vec2", "hubert", "wavlm"]
CLASSES = ("a", "b")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stable", [False, True])
def test_every_layers_embedding_is_that_of_its_hidden_state_and_the_last_is_the_encoders(
    architecture: str, stable: bool
) -> None:
    norm = "layer" if stable else "group"
    encoder = encoder_of(architecture, num_hidden_layers=3, do_stable_layer_norm=stable, feat_extract_norm=norm)
    waveforms = noise(2, 8000)
    with torch.no_grad():
        every, last = encoder(waveforms, every_layer=True), encoder(waveforms)
        inputs = (waveforms - waveforms.mean(1, keepdim=True)) / (
            waveforms.var(1, correction=0, keepdim=True) + 1e-7
        ).sqrt()
        states = encoder.model(inputs if encoder.normalise else waveforms, output_hidden_states=True).hidden_states
    assert every.shape == (2, 4, encoder.dim)
    assert torch.equal(every[:, -1], last)
    for number in range(3):
        torch.testing.assert_close(every[:, number], states[number].mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_counts_in_no_layer(architecture: str) -> None:
    encoder = encoder_of(architecture, num_hidden_layers=2)
    waveforms, lengths = noise(2, 8000), torch.tensor([8000, 5000])
    with torch.no_grad():
        together = encoder(waveforms, lengths, every_layer=True)
        alone = encoder(waveforms[1:, :5000], every_layer=True)
    for layer in range(3):
        assert shift(together[1:, layer], alone[:, layer]) < 2e-6


def test_a_long_clips_layers_are_means_over_all_its_frames() -> None:
    encoder = encoder_of("wav2vec2", num_hidden_layers=2)
    samples = (noise(1, 9000)[0].clamp(-3, 3) * 5000).to(torch.int16).numpy()
    every = features.embed(encoder, {"a": samples}, ["a"], chunk_seconds=0.25, every_layer=True)
    last = features.embed(encoder, {"a": samples}, ["a"], chunk_seconds=0.25)
    assert every.shape == (1, 3, encoder.dim)
    torch.testing.assert_close(every[:, -1], last)


def layered(clips: int, *, seed: int, telling: int, count: int = 3) -> Features:
    """Two classes that only one layer tells apart."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(clips) % 2
    embeddings = torch.randn(clips, count, 8, generator=draw)
    embeddings[:, telling, 0] += 6.0 * labels
    return Features(embeddings, tuple(map(str, range(clips))), labels)


def test_a_probe_reads_the_layer_it_is_told_to() -> None:
    train, valid = layered(240, seed=0, telling=1), layered(40, seed=1, telling=1)
    reached = {
        layer: probe.fit(train, valid, classes=CLASSES, lr=1e-1, layer=layer).score(valid).accuracy
        for layer in (0, 1, "last", "mean")
    }
    assert reached[1] > 0.95
    assert max(reached[0], reached["last"]) < 0.75
    alone = Features(train.embeddings[:, 1], train.keys, train.labels)
    one = probe.fit(alone, Features(valid.embeddings[:, 1], valid.keys, valid.labels), classes=CLASSES, lr=1e-1)
    same = probe.fit(train, valid, classes=CLASSES, lr=1e-1, layer=1)
    assert torch.equal(one.weight, same.weight)


def test_learned_weights_go_to_the_layer_that_tells() -> None:
    train, valid = layered(120, seed=0, telling=1), layered(40, seed=1, telling=1)
    fitted = probe.fit(train, valid, classes=CLASSES, lr=3e-2, layer="weighted")
    assert fitted.layers is not None
    assert fitted.layers.argmax() == 1
    assert fitted.layers[1] > 0.6
    assert fitted.layers.sum() == pytest.approx(1)
    assert fitted.score(valid).accuracy > 0.95


@pytest.mark.parametrize(("layer", "weights"), [(0, [1, 0, 0]), ("last", [0, 0, 1]), ("mean", [1 / 3] * 3)])
def test_the_weights_of_a_layer(layer: int | str, weights: list[float]) -> None:
    assert probe.layer_weights(layer, 3).tolist() == pytest.approx(weights)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="There is no layer 3: the backbone's are 0 to 2"):
        probe.layer_weights(3, 3)


def test_features_of_every_layer_are_stored_in_half_precision_as_they_are_used(tmp_path: Path) -> None:
    made = layered(4, seed=0, telling=0)
    rounded = Features(made.embeddings.half().float(), made.keys, made.labels)
    rounded.save(tmp_path / "side.safetensors")
    assert torch.equal(features.load(tmp_path / "side.safetensors").embeddings, rounded.embeddings)
    assert (tmp_path / "side.safetensors").stat().st_size < 4 * 3 * 8 * 2 + 600


def test_recipes_that_differ_in_the_layer_of_the_probe_share_stage_one() -> None:
    given = {"dataset": "d", "fingerprint": "f", "backbone": "b"}
    last, every = Recipe(**given), Recipe(**given, layers="all")
    first, weighted = (Recipe(**given, layers="all", probe_layer=layer) for layer in (0, "weighted"))
    assert first.stage_key == weighted.stage_key == every.stage_key != last.stage_key
    assert len({first.signature, weighted.signature, every.signature, last.signature}) == 4
    frozen = [Recipe(**given, method="frozen", layers=layers) for layers in ("last", "all")]
    assert frozen[0].stage_key != frozen[1].stage_key


def test_what_a_backbone_offers(tmp_path: Path) -> None:
    assert encoders.layers("wav2vec2-random") == (0, 1, "last", "mean", "weighted")
    assert encoders.layers("wav2vec2") == (*range(12), "last", "mean", "weighted")
    normalised = encoder_of("wav2vec2", do_stable_layer_norm=True, feat_extract_norm="layer")
    normalised.save(tmp_path / "stable")
    assert encoders.layers(str(tmp_path / "stable")) == (0, 1, "last")


@pytest.mark.parametrize("layer", [0, "last", "weighted"])
def test_a_classifier_of_layers_is_the_same_saved_and_in_transformers(layer: int | str, tmp_path: Path) -> None:
    tones = makers.tones(tmp_path / "tones", classes=3, clips=8)
    model = audioconfit.fit(
        str(tones), backbone="wav2vec2-random", method="frozen", layers="all", probe_layer=layer, progress=False
    )
    model.save(tmp_path / "out")
    recording = sorted(tones.rglob("*.wav"))[0]
    expected = torch.tensor(list(model.predict(recording)[0].probabilities.values()))

    loaded = Classifier.load(tmp_path / "out")
    assert torch.equal(loaded.probabilities(recording), model.probabilities(recording))

    pipeline = transformers.pipeline("audio-classification", model=str(tmp_path / "out"))
    samples = model._decoded(recording).astype("float32") / 32768
    said = {one["label"]: one["score"] for one in pipeline(samples, top_k=None)}
    theirs = torch.tensor([said[name] for name in model.classes])
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_graph_of_weighted_layers_gives_our_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the exporter calls with symbols for numbers
    encoder = encoder_of("wav2vec2")
    draw = torch.Generator().manual_seed(0)
    weight, flat = torch.randn(2, encoder.dim, generator=draw), torch.zeros(encoder.dim)
    layers = torch.tensor([0.2, 0.5, 0.3])
    model = Classifier(
        encoder, probe.Probe(CLASSES, weight, torch.zeros(2), flat, flat + 1, layers=layers), 1.0, CLASSES
    )
    assert onnx_graph.save(model, tmp_path / "graph").difference < 1e-5


def test_several_layers_of_a_backbone_that_normalises_last_are_no_checkpoint_of_transformers(tmp_path: Path) -> None:
    encoder = encoder_of("wav2vec2", do_stable_layer_norm=True, feat_extract_norm="layer")
    flat = torch.zeros(encoder.dim)
    mean = probe.Probe(
        CLASSES, torch.zeros(2, encoder.dim), torch.zeros(2), flat, flat + 1, layers=torch.full((3,), 1 / 3)
    )
    with pytest.raises(InputError, match="normalises after its last layer"):
        Classifier(encoder, mean, 1.0, CLASSES).save(tmp_path / "out")


def test_an_unknown_layer_is_refused_before_training(tmp_path: Path) -> None:
    tones = makers.tones(tmp_path / "tones")
    with pytest.raises(
        InputError, match=r"cannot read layer 7 of wav2vec2-random \(layers=all\); choose one of 0, 1, last"
    ):
        audioconfit.fit(str(tones), backbone="wav2vec2-random", layers="all", probe_layer=7, progress=False)
    with pytest.raises(InputError, match="choose one of last, or layers=all"):
        audioconfit.fit(str(tones), backbone="wav2vec2-random", probe_layer=1, progress=False)
    with pytest.raises(
        InputError, match=r"PairTune cannot read layer 7 of wav2vec2-random \(pair_layer\); choose one of 0"
    ):
        audioconfit.fit(str(tones), backbone="wav2vec2-random", pair_layer=7, progress=False)


def test_the_score_by_layer_is_each_probes_own(tmp_path: Path) -> None:
    train, valid = layered(240, seed=0, telling=1), layered(40, seed=1, telling=1)
    recipe = Recipe(dataset="d", fingerprint="f", backbone="wav2vec2-random", layers="all", probe_lr=0.1)
    first, second = ([Clip(key, Path(key), ("a",)) for key in side.keys] for side in (train, valid))
    split = Split(tuple(first), tuple(second), (), CLASSES, "made")
    by_layer = method.score_by_layer(recipe, train, valid, split, alive=lambda: None)
    assert list(by_layer) == [0, 1, "last", "mean", "weighted"]
    assert by_layer[1] > 0.95 > by_layer[0]
    figures.layers(by_layer, tmp_path / "layers.png", chosen=1)
    assert (tmp_path / "layers.png").stat().st_size > 1000
    assert json.dumps(by_layer)
