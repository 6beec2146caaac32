"""What the listing says of corpora that are there, half there, generated, and missing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stand_in_names as names
from rich.console import Console

from audioconfit import __main__ as command
from audioconfit import catalogue, synthesis

REAL = Path(os.environ.get("AUDIOCONFIT_DATA", "data"))


def shown(data: Path, *corpora: str, durations: bool = True, width: int = 200) -> str:
    console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    with console.file:
        console.print(
            catalogue.listing(catalogue.states(data, corpora or tuple(catalogue.CORPORA)), durations=durations)
        )
    return console.export_text()


def test_each_corpus_is_ready_incomplete_generated_to_download_or_to_bring(tmp_path: Path) -> None:
    names.emodb(tmp_path)
    root = names.esc50(tmp_path)
    for path in sorted((root / "audio").iterdir())[414:]:
        path.unlink()
    synthesis.write("mswc-indonesian", tmp_path)
    status = {state.source.name: state.status for state in catalogue.states(tmp_path)}
    assert status == {
        "timit": "bring",
        "gtzan": "download",
        "esc50": "incomplete",
        "mswc-spanish": "download",
        "mswc-indonesian": "generated",
        "emodb": "ready",
    }
    text = shown(tmp_path, durations=False)
    assert "535 of 535     7 of 7" in text
    assert "Only 414 of 2000 clips: complete it (github.com/karolpiczak/ESC-50" in text
    assert "--download fetches 1.2 GB" in text
    assert "sounds of our synthesiser" in text
    assert "LDC's licensed copy is needed" in text
    assert [state.source.name for state in catalogue.states(tmp_path) if state.there] == ["mswc-indonesian", "emodb"]


def test_the_listing_fits_eighty_columns(tmp_path: Path) -> None:
    names.mswc(tmp_path, "mswc-spanish", "es", 11759, 146)
    assert "11759 of 11759   146 of 146" in shown(tmp_path, durations=False, width=80)
    assert max(len(line) for line in shown(tmp_path, "timit", "gtzan", width=80).splitlines()) <= 80


def test_a_copy_shorter_than_the_papers_is_called_so(tmp_path: Path) -> None:
    folder = names.emodb(tmp_path)
    for path in (folder / "wav").iterdir():
        soundfile.write(path, np.zeros(1_600), 16_000)
    text = shown(tmp_path, "emodb")
    assert "54 s of 24 m" in text
    assert "This copy is shorter than the paper's: its clips are cut to 0.1 s" in text


@pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason="the recordings are not here")
def test_the_real_copy_of_emodb_is_called_shorter_than_the_papers() -> None:
    text = shown(REAL, "emodb")
    assert "17 m 50 s of 24 m" in text
    assert "its clips are cut to 2.0 s" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 m"), (59.6, "1 m"), (1070, "17 m 50 s"), (720, "12 m"), (11_700, "3 h 15 m")]
)
def test_durations_read_as_the_papers(seconds: float, words: str) -> None:
    assert catalogue.clock(seconds) == words


def test_an_unknown_corpus_has_no_state(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown corpus 'emo'"):
        catalogue.state("emo", tmp_path)


def test_the_command_lists_and_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["corpora", "--data", str(tmp_path)]) == 0
    assert "to bring" in capsys.readouterr().out
    assert command.main(["corpora", "--data", str(tmp_path), "--download", "timit"]) == 2
    assert "error: TIMIT cannot be downloaded" in capsys.readouterr().err


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "audioconfit", "corpora", "--data", str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mswc-indonesian" in done.stdout
