"""What CONTRIBUTING.md shows works as it stands there, and is as short as it promises."""

from pathlib import Path
from typing import Any

import blocks
import makers
import pytest
import torch

from audioconfit import backbones, corpora, encoders, losses, mining, splits
from audioconfit.mining import Pairs

PAGE = blocks.ROOT / "CONTRIBUTING.md"


def shown(section: str) -> dict[str, Any]:
    """What the section's block leaves; it has under 30 lines."""
    (block,) = blocks.blocks(PAGE, section=section)
    assert len(block.splitlines()) < 30
    return blocks.run(block)


def test_a_corpus_is_found_with_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "CORPORA", dict(corpora.CORPORA))
    for folder in makers.tones(tmp_path / "data" / "birds", classes=2, clips=4).iterdir():
        for path in folder.iterdir():
            path.rename(path.with_name(f"0{path.stem}-morning.wav"))
    birds = shown("A corpus")["birds"]
    assert len(birds.clips) == 8
    assert birds.classes == ("pitch-0", "pitch-1")
    assert {clip.group for clip in birds.clips} == {"00", "01", "02", "03"}
    split = splits.split(birds)
    assert not {clip.group for clip in split.train} & {clip.group for clip in split.test}


def test_a_backbone_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbones, "BACKBONES", dict(backbones.BACKBONES))
    ours = encoders.load("hubert-random", seed=7)
    ours.save(tmp_path / "models" / "our-hubert")
    loaded = shown("A backbone")["encoder"].state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in ours.state_dict().items())


def test_a_loss_has_its_value_and_a_gradient() -> None:
    pull = shown("A loss")["pull"]
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], requires_grad=True)
    value = pull(rows, torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx((0.5 + 0.5 + 0.0) / 3)  # each of the two is at right angles to its other
    value.backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_a_miner_is_selected_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "MINERS", dict(mining.MINERS))
    shown("A miner")
    similarity = torch.tensor([[1.0, 0.9, 0.1, 0.5]])
    pairs = Pairs(torch.tensor([[False, True, True, False]]), torch.tensor([[False, False, False, True]]))
    kept = mining.miner("easiest")(similarity, pairs)
    assert kept.positives.tolist() == [[False, True, False, False]]
    assert kept.negatives.tolist() == [[False, False, False, True]]
    rows = torch.eye(4)[:, :3]
    assert losses.supcon(rows, torch.tensor([0, 0, 1, 1]), miner=mining.miner("easiest")).isfinite()
