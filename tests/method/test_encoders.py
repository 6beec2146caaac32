"""Encoders: an embedding depends on its clip alone, and weights either fit or are refused."""

import hashlib
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import ARCHITECTURES, LARGE, encoder_of, noise, shift

from audioconfit import backbones, encoders
from audioconfit.backbones import BACKBONES
from audioconfit.encoders import Encoder, weights
from audioconfit.encoders.layers import fourier_convolution, standardise


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[{}, LARGE], ids=["group norm", "layer norm"])
def encoder(architecture: str, request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(architecture, **request.param)


# Names


def test_every_known_backbone_has_a_source_and_a_learning_rate() -> None:
    assert {name: known.source for name, known in BACKBONES.items() if "/" in known.source} == {
        "wav2vec2": "facebook/wav2vec2-base",
        "hubert": "facebook/hubert-base-ls960",
        "wavlm": "microsoft/wavlm-base",
    }
    assert backbones.find("hubert").lr == 5e-5  # the paper, section 3.2
    assert backbones.find("hubert-random").lr == 3e-3


def test_any_hub_id_and_any_folder_is_a_backbone(tmp_path: Any) -> None:
    assert backbones.find("facebook/wav2vec2-large").source == "facebook/wav2vec2-large"
    assert backbones.find(str(tmp_path)).source == str(tmp_path)


@pytest.mark.parametrize("name", ["wav2vec", "", "/no/such/folder", "a/b/c"])
def test_unknown_backbone_is_refused_with_the_known_ones_listed(name: Any) -> None:
    with pytest.raises(ValueError, match="wav2vec2, hubert, wavlm, wav2vec2-tiny"):
        backbones.find(name)


# Tiny backbones


def test_tiny_backbone_has_the_frame_rate_of_the_real_ones(architecture: Any) -> None:
    encoder = encoders.load(f"{architecture}-random")
    assert encoder.receptive_field == 690
    assert (encoder.frame_count(690), encoder.frame_count(690 + 319), encoder.frame_count(690 + 320)) == (1, 1, 2)
    assert encoder(noise(2, 16_000)).shape == (2, encoder.dim) == (2, 64)


def test_real_convolutions_see_400_samples_every_320() -> None:
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(num_hidden_layers=0))
    encoder = Encoder("wav2vec2", model)
    assert encoder.receptive_field == 400
    assert all(encoder.frame_count(n) == (n - 400) // 320 + 1 for n in range(400, 5000))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("wav2vec2", "00977143981b0612"), ("hubert", "736c8944eb561baf"), ("wavlm", "7d7555281b15fdce")],
)
def test_tiny_weights_are_the_same_on_every_machine(architecture: Any, expected: Any) -> None:
    digest = hashlib.sha256()
    for name, parameter in sorted(weights.random(architecture).named_parameters()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


def test_seed_decides_tiny_weights_and_leaves_the_global_generator_alone() -> None:
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
def test_embedding_does_not_depend_on_padding(encoder: Encoder, dtype: Any, tolerance: Any) -> None:
    encoder.to(dtype)
    lengths = torch.tensor([24_000, 16_001, 8_000, 2_345, 690])
    waveforms = noise(5, 40_000).to(dtype)  # what lies beyond a row's length is not even silent
    with torch.no_grad():
        alone = torch.cat([encoder(row[None, :length]) for row, length in zip(waveforms, lengths, strict=True)])
        assert shift(encoder(waveforms, lengths), alone) < tolerance


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("hubert", {"conv_pos_batch_norm": True}),  # mHuBERT at 25 Hz
        ("hubert", {"feat_proj_layer_norm": False}),  # DistilHuBERT
        ("wav2vec2", {"adapter_attn_dim": 8}),  # MMS
    ],
)
def test_variants_of_the_shape_keep_padding_and_neighbours_out_in_training_too(
    architecture: str, shape: dict[str, Any]
) -> None:
    encoder = encoder_of(architecture, **shape).train()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm1d):  # moments, scale and shift as of training
                for part in (module.running_mean, module.running_var, module.weight, module.bias):
                    part.uniform_(0.5, 1.5, generator=draw)
    before = {name: part.clone() for name, part in encoder.state_dict().items()}
    waveforms, lengths = noise(3, 9000), torch.tensor([9000, 5000, 3400])
    together = encoder(waveforms, lengths)
    theirs = type(encoder.model)(encoder.model.config)
    theirs.load_state_dict(encoder.model.state_dict())
    for row, length in enumerate(lengths):
        alone = waveforms[row : row + 1, :length]
        assert shift(together[row : row + 1], encoder(alone)) < 2e-6
        assert shift(theirs.eval()(standardise(alone)).last_hidden_state.mean(1), encoder(alone)) < 2e-6
    assert all(torch.equal(before[name], part) for name, part in encoder.state_dict().items())


def test_embedding_does_not_depend_on_the_batch(encoder: Encoder) -> None:
    waveforms = noise(4, 12_000)
    with torch.no_grad():
        alone = torch.cat([encoder(row[None]) for row in waveforms])
        assert shift(encoder(waveforms), alone) < 2e-6
        assert shift(encoder(waveforms, torch.full((4,), 12_000)), alone) < 2e-6


def test_padding_does_not_change_the_gradient(encoder: Encoder) -> None:
    encoder.double().train()
    lengths = [9_000, 4_000]
    waveforms = noise(2, 12_000).double()
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    padded = torch.autograd.grad(encoder(waveforms, torch.tensor(lengths)).square().sum(), parameters)
    each = [encoder(waveforms[row : row + 1, :length]).square().sum() for row, length in enumerate(lengths)]
    alone = torch.autograd.grad(each[0] + each[1], parameters)
    for ours, theirs in zip(padded, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_row_below_the_receptive_field_is_refused(architecture: Any) -> None:
    encoder = encoder_of(architecture)
    with pytest.raises(ValueError, match="cannot embed 689 samples: one frame takes 690"):
        encoder(noise(1, 689))
    with pytest.raises(ValueError, match="cannot embed 100 samples"):
        encoder(noise(2, 16_000), torch.tensor([16_000, 100]))


def test_input_normalisation_is_that_of_transformers_feature_extractor() -> None:
    waveforms, lengths = 3 + 0.1 * noise(2, 5_000), torch.tensor([5_000, 3_210])
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    rows = [row[:length].numpy() for row, length in zip(waveforms, lengths, strict=True)]
    expected = extractor(rows, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
    valid = torch.arange(5_000) < lengths[:, None]
    torch.testing.assert_close(standardise(waveforms, valid), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(standardise(waveforms[:1]), expected[:1], rtol=0, atol=1e-5)


def test_only_wavlm_base_reads_its_input_as_it_is() -> None:
    normalised = {
        (name, bool(large)): encoder_of(name, **large).normalise for name in ARCHITECTURES for large in ({}, LARGE)
    }
    assert [kind for kind, normalise in normalised.items() if not normalise] == [("wavlm", False)]


# Against transformers


@pytest.mark.parametrize("large", [{}, LARGE], ids=["base", "large"])
def test_embedding_is_the_mean_of_transformers_last_hidden_layer(architecture: Any, large: Any) -> None:
    encoder = encoder_of(architecture, **large)
    config_class, model_class = weights.ARCHITECTURES[architecture]
    theirs = model_class(config_class(**weights.SMALL | large)).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    waveforms = noise(3, 16_000)
    inputs = standardise(waveforms) if encoder.normalise else waveforms
    with torch.no_grad():
        assert shift(encoder(waveforms), theirs(inputs).last_hidden_state.mean(dim=1)) < 1e-5


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' own call
def test_wavlm_attention_equals_transformers_own_with_padding_and_in_its_gradient() -> None:
    encoder = encoder_of("wavlm", **LARGE)  # layer norm: transformers' own is exact with the mask alone
    theirs = transformers.WavLMModel(
        transformers.WavLMConfig(**weights.SMALL | LARGE, layerdrop=0, apply_spec_augment=False)
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


@pytest.mark.parametrize(("channels", "taps", "groups", "time"), [(12, 8, 4, 30), (48, 128, 1, 49), (6, 5, 3, 200)])
def test_fourier_convolution_and_its_gradients_are_conv1ds(channels: Any, taps: Any, groups: Any, time: Any) -> None:
    rows = noise(3, channels, time).double().requires_grad_()
    weight = noise(channels, channels // groups, taps, seed=1).double().requires_grad_()
    found = fourier_convolution(rows, weight, padding=taps // 2, groups=groups)
    expected = torch.nn.functional.conv1d(rows, weight, padding=taps // 2, groups=groups)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), (rows, weight)),
        torch.autograd.grad(expected.square().sum(), (rows, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


# Training


def test_every_trained_parameter_gets_a_gradient_and_the_waveform_none(encoder: Encoder) -> None:
    waveforms = noise(2, 16_000)
    encoder.train()
    encoder(waveforms).square().sum().backward()
    assert not waveforms.requires_grad
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []
    assert encoder.model.feature_extractor.conv_layers[0].conv.weight.grad.abs().max() > 0


def test_spec_augment_and_layer_drop_are_off_unless_asked_for(architecture: Any) -> None:
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


def test_spec_augment_refuses_chunks_below_its_span() -> None:
    encoder = encoders.load("hubert-random", spec_augment=True).train()
    samples = 690 + 8 * 320
    assert encoder.frame_count(samples) == 9
    with pytest.raises(ValueError, match="masks 10 frames at a time, and a chunk of 3250 samples has only 9"):
        encoder(noise(1, samples))
    assert encoder(noise(1, samples + 320)).isfinite().all()


def test_bf16_autocast_gives_float32_embeddings_close_to_plain_ones(encoder: Encoder) -> None:
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 9_000])
    with torch.no_grad():
        expected = encoder(waveforms, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = encoder(waveforms, lengths)
            full = encoder(waveforms)
    assert embeddings.dtype == full.dtype == torch.float32
    assert shift(embeddings, expected) < 0.02
