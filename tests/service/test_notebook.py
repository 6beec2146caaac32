"""A sweep from Python: the flags as words, a table and the champions."""

import os
from pathlib import Path

import blocks
import makers
import pytest

import sweeps
from audioconfit.errors import InputError
from sweeps.request import flags

PAGE = blocks.ROOT / "sweeps" / "README.md"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recordings and places that the page's block speaks of."""
    recordings = sorted(makers.tones(tmp_path / "tones", clips=10).rglob("*.wav"))
    (tmp_path / "some.wav").write_bytes(recordings[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("PYTHONPATH", f"{blocks.ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


@pytest.mark.slow
def test_the_pages_block_gives_a_table_and_a_champion(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks.blocks(PAGE, section="From Python")
    found = blocks.run(block)["found"]
    (row,) = found.table.to_dict("records")
    assert (row["dataset"], row["backbone"], row["method"], row["runs"]) == ("tones", "wav2vec2-random", "frozen", 1)
    assert row["champion"]
    assert 0 <= row["test"] <= 1
    assert found.folder == place / "storage" / "sweep"
    assert list(found.champions) == ["tones"]
    assert "<table" in found._repr_html_()
    assert "labels=('pitch-" in capsys.readouterr().out


def test_words_are_the_flags_with_underscores() -> None:
    asked = {
        "datasets": [Path("one"), "two"],
        "backbones": "wav2vec2-random",
        "batch_sizes": [8, 16],
        "early_stopping": False,
        "set": {"mining": "hardest", "augment": ["gain", "noise"], "layer_drop": True},
        "patience": 60,
        "lr": None,
        "chunks": 0.5,
    }
    typed = ["--datasets", "one,two", "--backbones", "wav2vec2-random", "--batch-sizes", "8,16", "--no-early-stopping"]
    typed += ["--set", "mining=hardest", "--set", "augment=gain,noise", "--set", "layer_drop=true", "--patience", "60"]
    typed += ["--chunks", "0.5"]
    assert flags.of(asked, {}) == flags.parse(typed, {})


def test_a_word_that_is_no_flag_and_a_value_that_is_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"No flag is called bakbones; choose from allow_incomplete, backbones"):
        sweeps.run(datasets="tones", bakbones="wav2vec2")
    with pytest.raises(InputError, match="--trials 0"):
        sweeps.run(datasets="tones", trials=0)
    with pytest.raises(InputError, match=r"--backbones \{\}: This is neither a word nor a list of words"):
        sweeps.run(datasets="tones", backbones={})
