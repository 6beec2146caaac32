"""The leak report: a corpus whose speakers give their class away, and one without speakers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioconfit import __main__ as command
from audioconfit import audio, corpora, leak
from audioconfit.errors import InputError

RATE = 16_000


def speakers(folder: Path, *, named: bool = True) -> Path:
    """Eight speakers, each of one pitch; what is said is nothing but noise: only who speaks can be learned."""
    rng = np.random.default_rng(0)
    rows = ["path,label,speaker" if named else "path,label"]
    for speaker in range(8):
        tone = np.sin(2 * np.pi * (200 + 150 * speaker) * np.arange(RATE // 4) / RATE)
        for take in range(6):
            name, label = f"{speaker}-{take}.wav", ("yes", "no")[speaker * 5 % 8 % 2]
            soundfile.write(folder / name, 0.3 * tone + 0.05 * rng.standard_normal(len(tone)), RATE)
            rows.append(f"{name},{label},s{speaker}" if named else f"{name},{label}")
    (folder / "own.csv").write_text("\n".join(rows))
    return folder / "own.csv"


def test_speakers_on_both_sides_promise_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = speakers(tmp_path)
    assert command.main(["leak", str(manifest)]) == 0
    said = capsys.readouterr().out
    assert "8 groups kept on one side" in said
    found = leak.measure(audio.prepare(corpora.load(str(manifest), tmp_path), tmp_path / "prepared"), "wav2vec2-tiny")
    assert found.gain > 0.2
    assert min(found.mixed) > 0.9
    assert f"{100 * found.gain:+.1f} points" in said


def test_without_groups_nothing_is_told(tmp_path: Path) -> None:
    waveforms = audio.prepare(corpora.load(str(speakers(tmp_path, named=False)), tmp_path), tmp_path / "prepared")
    with pytest.raises(InputError, match="own names 0 speakers or source recordings"):
        leak.measure(waveforms, "wav2vec2-tiny")
