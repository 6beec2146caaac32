"""The pre-trained backbones in the package: whole, small, described, loaded like any other folder."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from audioconfit import audio, corpora, encoders, method, pretraining, synthesis
from audioconfit.backbones import BACKBONES
from audioconfit.encoders import PRETRAINED
from audioconfit.recipe import Recipe

NAMES = sorted(pretraining.ARCHITECTURES)
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's weights in a place where they may be harmed."""
    shutil.copytree(PRETRAINED, tmp_path / "pretrained")
    monkeypatch.setattr(encoders, "PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_complete_and_loads_with_padding_and_masks(name: str) -> None:
    folder = PRETRAINED / name
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "model.safetensors").stat().st_size <= 2_000_000
    encoder = encoders.load(name)
    assert encoder.normalise
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    sound = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    embedded = encoder(sound)
    assert embedded.dtype == torch.float32
    padded = encoder(torch.nn.functional.pad(sound, (0, 9_000)), torch.tensor([24_000, 24_000]))
    assert torch.allclose(embedded, padded, atol=1e-5)
    masked = encoders.load(name, spec_augment=True).train()
    assert not torch.allclose(masked(sound), embedded, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_pre_trained_folder_is_any_local_folder(name: str) -> None:
    sound = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encoders.load(str(PRETRAINED / name))(sound), encoders.load(name, seed=9)(sound))
    assert encoders.fingerprint(name) == encoders.fingerprint(str(PRETRAINED / name)) != ""


@pytest.mark.parametrize("name", NAMES)
def test_the_card_names_hash_command_data_objective_limits_and_licence(name: str) -> None:
    card = (PRETRAINED / name / "README.md").read_text()
    assert BACKBONES[name].sha256 in card
    assert f"python -m audioconfit pretrain {name} --out " in card
    for heading in ("Data", "Objective", "Cost", "Scores", "Limits", "Licence"):
        assert re.search(rf"^## {heading}", card, re.MULTILINE), heading


def test_damaged_weights_are_refused(copied: Path) -> None:
    file = copied / "hubert-tiny" / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its SHA-256 is .*; install audioconfit again"):
        encoders.load("hubert-tiny")
    with pytest.raises(ValueError, match="damaged"):
        encoders.fingerprint("hubert-tiny")
    assert encoders.load("wavlm-tiny").dim == 128


def test_missing_weights_are_refused(copied: Path) -> None:
    (copied / "wavlm-tiny" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing"):
        encoders.load("wavlm-tiny")


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["timit", "emodb"])
def test_the_demos_backbone_is_clearly_above_an_untrained_one(dataset: str, tmp_path: Path) -> None:
    synthesis.write(dataset, tmp_path)
    waveforms = audio.prepare(corpora.load(dataset, tmp_path), tmp_path / "prepared", workers=1)
    reached = {}
    for name in ("wav2vec2-random", "wav2vec2-tiny"):
        tried = Recipe(
            dataset=dataset,
            fingerprint=waveforms.fingerprint,
            backbone=name,
            weights=encoders.fingerprint(name),
            method="frozen",
            chunk_seconds=0.5,
            probe_lr=1e-2,
        )
        result = method.run(tried, waveforms)
        assert result is not None
        assert result.test is not None
        reached[name] = result.test.accuracy
    print(dataset, reached)
    assert reached["wav2vec2-tiny"] > reached["wav2vec2-random"] + 0.15
