"""Encoders: an embedding depends on its clip alone, and weights either fit or are refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from audioconfit import encoders, features, pairtune
from audioconfit.audio import Waveforms
from audioconfit.batches import Batches
from audioconfit.corpora import Clip, Corpus
from audioconfit.encoders import Encoder, weights
from audioconfit.encoders.layers import standardise

ARCHITECTURES = ("wav2vec2", "hubert", "wavlm")
# The large models of each family: layer norm in every convolution, and before each block.
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def encoder_of(architecture: str, **config: object) -> Encoder:
    """A tiny encoder whose relative position bias, if it has one, is large enough to matter."""
    model = weights.tiny(architecture, **config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_attn_embed" in name:
                parameter.mul_(50)
    return Encoder(architecture, model).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shift(embeddings: Tensor, reference: Tensor) -> float:
    """The largest relative distance of a row from its reference."""
    return float(((embeddings - reference).norm(dim=1) / reference.norm(dim=1)).max().detach())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[{}, LARGE], ids=["group norm", "layer norm"])
def encoder(architecture: str, request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(architecture, **request.param)


# Names


def test_every_known_backbone_has_a_source_and_a_learning_rate():
    assert {name: known.source for name, known in encoders.BACKBONES.items() if "/" in known.source} == {
        "wav2vec2": "facebook/wav2vec2-base",
        "hubert": "facebook/hubert-base-ls960",
        "wavlm": "microsoft/wavlm-base",
    }
    assert encoders.backbone("hubert").lr == 5e-5  # the paper, section 3.2
    assert encoders.backbone("hubert-random").lr == 3e-3


def test_any_hub_id_and_any_folder_is_a_backbone(tmp_path):
    assert encoders.backbone("facebook/wav2vec2-large").source == "facebook/wav2vec2-large"
    assert encoders.backbone(str(tmp_path)).source == str(tmp_path)


@pytest.mark.parametrize("name", ["wav2vec", "", "/no/such/folder", "a/b/c"])
def test_unknown_backbone_is_refused_with_the_known_ones_listed(name):
    with pytest.raises(ValueError, match="wav2vec2, hubert, wavlm, wav2vec2-tiny"):
        encoders.backbone(name)


# Tiny backbones


def test_tiny_backbone_has_the_frame_rate_of_the_real_ones(architecture):
    encoder = encoders.load(f"{architecture}-random")
    assert encoder.receptive_field == 690
    assert (encoder.frame_count(690), encoder.frame_count(690 + 319), encoder.frame_count(690 + 320)) == (1, 1, 2)
    assert encoder(noise(2, 16_000)).shape == (2, encoder.dim) == (2, 64)


def test_real_convolutions_see_400_samples_every_320():
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(num_hidden_layers=0))
    encoder = Encoder("wav2vec2", model)
    assert encoder.receptive_field == 400
    assert all(encoder.frame_count(n) == (n - 400) // 320 + 1 for n in range(400, 5000))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("wav2vec2", "00977143981b0612"), ("hubert", "736c8944eb561baf"), ("wavlm", "7d7555281b15fdce")],
)
def test_tiny_weights_are_the_same_on_every_machine(architecture, expected):
    digest = hashlib.sha256()
    for name, parameter in sorted(weights.tiny(architecture).named_parameters()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


def test_seed_decides_tiny_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (encoders.load("wavlm-random", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(
        first["model.feature_projection.projection.weight"], other["model.feature_projection.projection.weight"]
    )


# Padding and batches


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str)
def test_embedding_does_not_depend_on_padding(encoder, dtype, tolerance):
    encoder.to(dtype)
    lengths = torch.tensor([24_000, 16_001, 8_000, 2_345, 690])
    waveforms = noise(5, 40_000).to(dtype)  # what lies beyond a row's length is not even silent
    with torch.no_grad():
        alone = torch.cat([encoder(row[None, :length]) for row, length in zip(waveforms, lengths, strict=True)])
        assert shift(encoder(waveforms, lengths), alone) < tolerance


def test_embedding_does_not_depend_on_the_batch(encoder):
    waveforms = noise(4, 12_000)
    with torch.no_grad():
        alone = torch.cat([encoder(row[None]) for row in waveforms])
        assert shift(encoder(waveforms), alone) < 2e-6
        assert shift(encoder(waveforms, torch.full((4,), 12_000)), alone) < 2e-6


def test_padding_does_not_change_the_gradient(encoder):
    encoder.double().train()
    lengths = [9_000, 4_000]
    waveforms = noise(2, 12_000).double()
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    padded = torch.autograd.grad(encoder(waveforms, torch.tensor(lengths)).square().sum(), parameters)
    each = [encoder(waveforms[row : row + 1, :length]).square().sum() for row, length in enumerate(lengths)]
    alone = torch.autograd.grad(each[0] + each[1], parameters)
    for ours, theirs in zip(padded, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_row_below_the_receptive_field_is_refused(architecture):
    encoder = encoder_of(architecture)
    with pytest.raises(ValueError, match="cannot embed 689 samples: one frame takes 690"):
        encoder(noise(1, 689))
    with pytest.raises(ValueError, match="cannot embed 100 samples"):
        encoder(noise(2, 16_000), torch.tensor([16_000, 100]))


def test_input_normalisation_is_that_of_transformers_feature_extractor():
    waveforms, lengths = 3 + 0.1 * noise(2, 5_000), torch.tensor([5_000, 3_210])
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    rows = [row[:length].numpy() for row, length in zip(waveforms, lengths, strict=True)]
    expected = extractor(rows, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
    valid = torch.arange(5_000) < lengths[:, None]
    torch.testing.assert_close(standardise(waveforms, valid), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(standardise(waveforms[:1]), expected[:1], rtol=0, atol=1e-5)


def test_only_wavlm_base_reads_its_input_as_it_is():
    normalised = {
        (name, bool(large)): encoder_of(name, **large).normalise for name in ARCHITECTURES for large in ({}, LARGE)
    }
    assert [kind for kind, normalise in normalised.items() if not normalise] == [("wavlm", False)]


# Against transformers


@pytest.mark.parametrize("large", [{}, LARGE], ids=["base", "large"])
def test_embedding_is_the_mean_of_transformers_last_hidden_layer(architecture, large):
    encoder = encoder_of(architecture, **large)
    config_class, model_class = weights.ARCHITECTURES[architecture]
    theirs = model_class(config_class(**weights.TINY | large)).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    waveforms = noise(3, 16_000)
    inputs = standardise(waveforms) if encoder.normalise else waveforms
    with torch.no_grad():
        assert shift(encoder(waveforms), theirs(inputs).last_hidden_state.mean(dim=1)) < 1e-5


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' own call
def test_wavlm_attention_equals_transformers_own_with_padding_and_in_its_gradient():
    encoder = encoder_of("wavlm", **LARGE)  # layer norm: transformers' own is exact with the mask alone
    theirs = transformers.WavLMModel(
        transformers.WavLMConfig(**weights.TINY | LARGE, layerdrop=0, apply_spec_augment=False)
    )
    theirs.load_state_dict(encoder.model.state_dict())
    encoder.normalise = False
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 9_000])
    valid = torch.arange(16_000) < lengths[:, None]
    encoder.train()
    theirs.train()

    ours = encoder(waveforms, lengths)
    hidden = theirs(waveforms * valid, attention_mask=valid.long()).last_hidden_state
    expected = torch.stack(
        [row[: encoder.frame_count(int(n))].mean(dim=0) for row, n in zip(hidden, lengths, strict=True)]
    )
    assert shift(ours, expected) < 1e-5

    ours.square().sum().backward()
    expected.square().sum().backward()
    for (name, mine), other in zip(encoder.model.named_parameters(), theirs.parameters(), strict=True):
        if name != "masked_spec_embed":
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=2e-5, msg=name)


# Training


def test_every_trained_parameter_gets_a_gradient_and_the_waveform_none(encoder):
    waveforms = noise(2, 16_000)
    encoder.train()
    encoder(waveforms).square().sum().backward()
    assert not waveforms.requires_grad
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []
    assert encoder.model.feature_extractor.conv_layers[0].conv.weight.grad.abs().max() > 0


def test_spec_augment_and_layer_drop_are_off_unless_asked_for(architecture):
    waveforms = noise(2, 16_000)
    plain = encoders.load(f"{architecture}-random")
    expected = plain(waveforms)
    assert torch.equal(plain.train()(waveforms), expected)

    augmented = encoders.load(f"{architecture}-random", spec_augment=True)
    assert torch.equal(augmented(waveforms), expected)  # in evaluation mode
    assert not torch.allclose(augmented.train()(waveforms), expected)

    dropping = encoders.load(f"{architecture}-random", layer_drop=True).train()
    assert dropping.model.config.layerdrop == 0.1  # the configuration's own
    dropping.model.config.layerdrop = 1.0
    assert not torch.allclose(dropping(waveforms), expected)


def test_spec_augment_refuses_chunks_below_its_span():
    encoder = encoders.load("hubert-random", spec_augment=True).train()
    samples = 690 + 8 * 320
    assert encoder.frame_count(samples) == 9
    with pytest.raises(ValueError, match="masks 10 frames at a time, and a chunk of 3250 samples has only 9"):
        encoder(noise(1, samples))
    assert encoder(noise(1, samples + 320)).isfinite().all()


def test_bf16_autocast_gives_float32_embeddings_close_to_plain_ones(encoder):
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 9_000])
    with torch.no_grad():
        expected = encoder(waveforms, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = encoder(waveforms, lengths)
            full = encoder(waveforms)
    assert embeddings.dtype == full.dtype == torch.float32
    assert shift(embeddings, expected) < 0.02


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # in transformers
def test_encoder_compiles_into_one_graph(architecture):
    encoder = encoder_of(architecture)
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 9_000])
    torch.compiler.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert shift(compiled(waveforms), encoder(waveforms)) < 1e-6
        assert shift(compiled(waveforms, lengths), encoder(waveforms, lengths)) < 1e-6


# Weights on disk


def test_saved_encoder_comes_back_bit_for_bit(architecture, tmp_path):
    encoder = encoders.load(f"{architecture}-random", seed=3)
    encoder.save(tmp_path / "encoder")
    again = encoders.load(str(tmp_path / "encoder"))
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in encoder.state_dict().items())
    assert torch.equal(again(noise(2, 8_000)), encoder(noise(2, 8_000)))
    assert again.normalise == encoder.normalise
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    encoder.save(tmp_path / "encoder")  # and over itself


def test_saved_encoder_is_a_model_of_transformers(architecture, tmp_path):
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


def test_input_normalisation_is_read_from_the_folder(tmp_path):
    encoders.load("wav2vec2-random").save(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    assert not encoders.load(str(tmp_path)).normalise
    (tmp_path / "preprocessor_config.json").unlink()
    assert encoders.load(str(tmp_path)).normalise


def test_backbone_of_another_sample_rate_is_refused(tmp_path):
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8_000}))
    with pytest.raises(ValueError, match="expects 8000 Hz"):
        encoders.load(str(tmp_path))


def test_checkpoint_of_the_hubs_kind_is_read(tmp_path):
    """A pickle of tensors with the old names of weight_norm, pre-training heads on top: facebook/wav2vec2-base."""
    config = transformers.Wav2Vec2Config(
        **weights.TINY, codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4
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


def test_missing_mask_embedding_is_drawn_from_the_seed(tmp_path):
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
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    encoders.load("wav2vec2-random").save(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        encoders.load(str(tmp_path))


class Intruder:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (Path.touch, (Path(self.path),))  # type: ignore[attr-defined]


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    intruder = Intruder()
    intruder.path = str(tmp_path / "was-run")  # type: ignore[attr-defined]
    torch.save({"weight": intruder}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        encoders.load(str(tmp_path))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"], ids=["empty", "cut off"])
def test_broken_weights_are_refused(tmp_path, content):
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        encoders.load(str(tmp_path))


def test_folder_without_config_or_weights_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is needed"):
        encoders.load(str(tmp_path))
    encoders.load("wav2vec2-random").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file named model\.safetensors"):
        encoders.load(str(tmp_path))


def test_other_architectures_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' model; choose one of wav2vec2, hubert, wavlm"):
        encoders.load(str(tmp_path))


def test_unreachable_hub_says_what_to_do_instead(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # which reads a file of the user's
    with pytest.raises(
        ValueError, match=r"No weights for 'no-such-organisation/no-such-model'.*--backbones /path/to/folder"
    ):
        encoders.load("no-such-organisation/no-such-model")


@pytest.mark.slow
def test_full_size_backbone_loads_and_trains(architecture, tmp_path):
    """The shapes of the hub's base models, random weights, through the code that loads the hub's: one PairTune step."""
    config_class, model_class = weights.ARCHITECTURES[architecture]
    model_class(config_class()).save_pretrained(tmp_path)
    encoder = encoders.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()  # 380 MB
    assert (encoder.dim, len(encoder.model.encoder.layers), encoder.receptive_field) == (768, 12, 400)

    clips = tuple(Clip(str(number), path=None, labels=("ab"[number % 2],)) for number in range(4))
    samples = (noise(4 * 8_000) * 3_000).short().numpy()
    waveforms = Waveforms(
        Corpus("noise", clips), "", (), samples, {clip.key: (8_000 * row, 8_000) for row, clip in enumerate(clips)}
    )
    untrained = features.extract(encoder, waveforms, clips, classes=("a", "b"), chunk_seconds=0.5)
    batches = Batches(waveforms, clips, ("a", "b"), batch_size=4, chunk_seconds=0.5, seed=0)
    pairtune.train(encoder, batches, lr=5e-5, epochs=1, seed=0)
    trained = features.extract(encoder, waveforms, clips, classes=("a", "b"), chunk_seconds=0.5)
    assert trained.embeddings.isfinite().all()
    assert 1e-4 < shift(trained.embeddings, untrained.embeddings) < 1


def test_the_fingerprint_tells_weights_apart_and_not_their_place(tmp_path):
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        encoders.load("wav2vec2-random", seed=seed).save(tmp_path / folder)
    one, same, other = (encoders.fingerprint(str(tmp_path / name)) for name in ("one", "same", "other"))
    assert one == same != other
    assert encoders.fingerprint("wav2vec2-random") == ""
