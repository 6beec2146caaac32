"""Weights on disk: they come back as they were saved, and either fit their config.json or are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_encoders import ARCHITECTURES, noise, shift
from torch import Tensor

from audioconfit import encoders, features, pairtune
from audioconfit.audio import Waveforms
from audioconfit.batches import Batches
from audioconfit.corpora import Clip, Corpus
from audioconfit.encoders import weights
from audioconfit.errors import InputError
from audioconfit.training import Settings


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


def test_saved_encoder_comes_back_bit_for_bit(architecture: Any, tmp_path: Path) -> None:
    encoder = encoders.load(f"{architecture}-random", seed=3)
    encoder.save(tmp_path / "encoder")
    again = encoders.load(str(tmp_path / "encoder"))
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in encoder.state_dict().items())
    assert torch.equal(again(noise(2, 8_000)), encoder(noise(2, 8_000)))
    assert again.normalise == encoder.normalise
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    encoder.save(tmp_path / "encoder")  # and over itself


def test_saved_encoder_is_a_model_of_transformers(architecture: Any, tmp_path: Path) -> None:
    encoder = encoders.load(f"{architecture}-random")
    encoder.save(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert model.config.layerdrop == 0.1
    assert model.config.apply_spec_augment
    waveform = noise(8_000)
    inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        assert shift(model(inputs).last_hidden_state.mean(dim=1), encoder(waveform[None])) < 1e-5


def test_input_normalisation_is_read_from_the_folder(tmp_path: Path) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    assert not encoders.load(str(tmp_path)).normalise
    (tmp_path / "preprocessor_config.json").unlink()
    assert encoders.load(str(tmp_path)).normalise


def test_backbone_of_another_sample_rate_is_refused(tmp_path: Path) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8_000}))
    with pytest.raises(ValueError, match="expects 8000 Hz"):
        encoders.load(str(tmp_path))


def test_checkpoint_of_the_hubs_kind_is_read(tmp_path: Path) -> None:
    """A pickle of tensors with the old names of weight_norm, pre-training heads on top: facebook/wav2vec2-base."""
    config = transformers.Wav2Vec2Config(
        **weights.SMALL, codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4
    )
    model = transformers.Wav2Vec2ForPreTraining(config)
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = model.state_dict()
    for new_name, old_name in old.items():
        for name in [name for name in state if name.endswith(new_name)]:
            state[name.removesuffix(new_name) + old_name] = state.pop(name)
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)

    body = model.wav2vec2.state_dict()
    loaded = encoders.load(str(tmp_path)).model.state_dict()
    assert loaded.keys() == body.keys()
    assert all(torch.equal(loaded[name], body[name]) for name in body)


def test_missing_mask_embedding_is_drawn_from_the_seed(tmp_path: Path) -> None:
    encoders.load("hubert-random").save(tmp_path)
    change_weights(tmp_path, lambda state: state.pop("masked_spec_embed"))
    torch.manual_seed(1)
    first = encoders.load(str(tmp_path), seed=5).model.masked_spec_embed
    torch.manual_seed(2)
    assert torch.equal(encoders.load(str(tmp_path), seed=5).model.masked_spec_embed, first)


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("encoder.layers.1.attention.q_proj.weight"), "1 missing"),
        (lambda state: state.update({"encoder.layers.2.attention.q_proj.weight": torch.zeros(64, 64)}), "1 unexpected"),
        (lambda state: state.update({"feature_projection.projection.bias": torch.zeros(63)}), "cannot be read"),
        (lambda state: state.clear(), "missing"),
    ],
    ids=["missing", "unexpected", "other shape", "empty"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: Any) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        encoders.load(str(tmp_path))


class Intruder:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (Path.touch, (Path(self.path),))  # type: ignore[attr-defined, return-value]


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    intruder = Intruder()
    intruder.path = str(tmp_path / "was-run")  # type: ignore[attr-defined]
    torch.save({"weight": intruder}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        encoders.load(str(tmp_path))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"], ids=["empty", "cut off"])
def test_broken_weights_are_refused(tmp_path: Path, content: Any) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        encoders.load(str(tmp_path))


def test_folder_without_config_or_weights_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is needed"):
        encoders.load(str(tmp_path))
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file named model\.safetensors"):
        encoders.load(str(tmp_path))


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' model; choose one of wav2vec2, hubert, wavlm"):
        encoders.load(str(tmp_path))


def test_unreachable_hub_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # which reads a file of the user's
    with pytest.raises(
        ValueError, match=r"No weights for 'no-such-organisation/no-such-model'.*--backbones /path/to/folder"
    ):
        encoders.load("no-such-organisation/no-such-model")
    with pytest.raises(encoders.Unreachable, match="No weights for 'no-such-organisation/no-such-model'"):
        encoders.check("no-such-organisation/no-such-model")


@pytest.mark.parametrize("head", [transformers.WavLMForXVector, transformers.Wav2Vec2ForXVector])
def test_a_head_may_name_its_layers_as_the_body_does(tmp_path: Path, head: Any) -> None:
    """x-vectors have a layer of the head that is called feature_extractor."""
    architecture = head.config_class.model_type
    model = head(weights.small(architecture, tdnn_dim=(8, 8, 8, 8, 16), xvector_output_dim=8))
    model.save_pretrained(tmp_path)
    assert "feature_extractor.weight" in load_file(tmp_path / "model.safetensors")
    loaded, body = encoders.load(str(tmp_path)).model.state_dict(), model.base_model.state_dict()
    assert all(torch.equal(loaded[name], body[name]) for name in body)
    change_weights(tmp_path, lambda state: state.update({f"{architecture}.encoder.layers.2.bias": torch.zeros(1)}))
    with pytest.raises(ValueError, match="1 unexpected"):
        encoders.load(str(tmp_path))


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "bert"}, "'bert' model; choose one of wav2vec2, hubert, wavlm"),
    ({"add_adapter": True}, "has an adapter behind its encoder"),
    ({"num_attention_heads": 7}, "describes no encoder that can be built: ValueError"),
    ({"conv_stride": [5, 2]}, "describes no encoder that can be built"),
    ({"hidden_size": "many"}, "describes no encoder that can be built.*hidden_size"),
    ({"hidden_act": "sine"}, "describes no encoder that can be built: KeyError: 'sine'"),
]


@pytest.mark.parametrize(("change", "said"), UNUSABLE, ids=[next(iter(change)) for change, _ in UNUSABLE])
def test_what_cannot_be_used_is_refused_by_its_configuration_alone(tmp_path: Path, change: Any, said: str) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    encoders.check(str(tmp_path))
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(InputError, match=said):
        encoders.check(str(tmp_path))


def test_backbones_with_names_pass_their_check() -> None:
    for name in ("wav2vec2-random", "wav2vec2-tiny", "hubert-tiny", "wavlm-tiny"):
        encoders.check(name)


def test_the_hub_is_asked_for_the_configuration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("usable", "other"):
        encoders.load("wav2vec2-random").save(tmp_path / name)
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "clap"}))
    repositories = {f"org/{name}": tmp_path / name for name in ("usable", "other")}
    with hub.serving(monkeypatch, tmp_path / "cache", repositories) as served:
        encoders.check("org/usable")
        with pytest.raises(InputError, match="org/other holds a 'clap' model"):
            encoders.check("org/other")
        assert set(served.fetched) == {"config.json", "preprocessor_config.json"}
        with pytest.raises(InputError, match="No weights for 'org/none'") as refused:
            encoders.check("org/none")
        assert not isinstance(refused.value, encoders.Unreachable)
        assert encoders.load("org/usable").receptive_field == encoders.load("wav2vec2-random").receptive_field
        assert served.fetched.count("model.safetensors") == 1


def test_a_hub_without_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.load("wav2vec2-random").save(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with (
        hub.serving(monkeypatch, tmp_path / "cache", {"org/bare": tmp_path / "bare"}),
        pytest.raises(InputError, match=r"No weights for 'org/bare'.*neither model\.safetensors"),
    ):
        encoders.fingerprint("org/bare")


@pytest.mark.slow
def test_full_size_backbone_loads_and_trains(architecture: Any, tmp_path: Path) -> None:
    """The shapes of the hub's base models, random weights, through the code that loads the hub's: one PairTune step."""
    config_class, model_class = weights.ARCHITECTURES[architecture]
    model_class(config_class()).save_pretrained(tmp_path)
    encoder = encoders.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()  # 380 MB
    assert (encoder.dim, len(encoder.model.encoder.layers), encoder.receptive_field) == (768, 12, 400)

    clips = tuple(Clip(str(number), path=Path("nowhere.wav"), labels=("ab"[number % 2],)) for number in range(4))
    samples = (noise(4 * 8_000) * 3_000).short().numpy()
    waveforms = Waveforms(
        Corpus("noise", clips), "", (), samples, {clip.key: (8_000 * row, 8_000) for row, clip in enumerate(clips)}
    )
    untrained = features.extract(encoder, waveforms, clips, classes=("a", "b"), chunk_seconds=0.5)
    batches = Batches(waveforms, clips, ("a", "b"), batch_size=4, chunk_seconds=0.5, seed=0)
    pairtune.train(encoder, batches, Settings(lr=5e-5, epochs=1, seed=0))
    trained = features.extract(encoder, waveforms, clips, classes=("a", "b"), chunk_seconds=0.5)
    assert trained.embeddings.isfinite().all()
    assert 1e-4 < shift(trained.embeddings, untrained.embeddings) < 1


def test_the_fingerprint_tells_weights_apart_and_not_their_place(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        encoders.load("wav2vec2-random", seed=seed).save(tmp_path / folder)
    one, same, other = (encoders.fingerprint(str(tmp_path / name)) for name in ("one", "same", "other"))
    assert one == same != other
    assert encoders.fingerprint("wav2vec2-random") == ""


def test_activations_are_not_recomputed_because_a_file_on_the_hub_says_so(tmp_path: Path) -> None:
    encoders.load("wav2vec2-random").save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"gradient_checkpointing": True}))
    found = encoders.load(str(tmp_path))
    assert not [module for module in found.modules() if getattr(module, "gradient_checkpointing", False)]
