"""`--datasets all --dry-run` on a folder with all six corpora at their full size, as a person would run it.

The names and lists are the real layouts' (support/stand_in_names.py), the recordings 60 ms of sound, no two alike.
"""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stand_in_names as names

from sweeps import grid

SAMPLES = 960  # the packaged backbones take 880
TABLE = {  # clips, classes, train, valid, test; Table 1, the GTZAN lists, EmoDB's speakers, TIMIT's sentences
    "timit": (6300, 630, 3780, 1260, 1260),
    "gtzan": (930, 10, 443, 197, 290),
    "esc50": (2000, 50, 1200, 400, 400),
    "mswc-spanish": (11759, 146, 9423, 1168, 1168),
    "mswc-indonesian": (739, 14, 574, 84, 81),
    "emodb": (535, 7, 249, 55, 231),
}


def sound(format: str, subtype: str = "PCM_16") -> bytes:
    """A file of SAMPLES samples."""
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(SAMPLES) / 5), 16_000, format=format, subtype=subtype)
    return file.getvalue()


def fill(folder: Path, whole: bytes) -> None:
    """Write a recording under each empty name; its last samples are the file's number."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in (".wav", ".opus")]
    assert paths
    for number, path in enumerate(paths):
        if path.suffix == ".opus":
            soundfile.write(path, np.sin(np.arange(SAMPLES) / (3 + number)), 16_000, format="OGG", subtype="OPUS")
        else:
            path.write_bytes(whole[:-4] + number.to_bytes(4, "little"))


def six(data: Path) -> Path:
    """All six below `data`: TIMIT as NIST SPHERE, MSWC Spanish converted to WAV under lists that say .opus."""
    fill(names.timit(data), sound("NIST"))
    for folder in (names.gtzan_files(data), names.esc50(data), names.emodb(data)):
        fill(folder, sound("WAV"))
    spanish = names.mswc(data, "mswc-spanish", "es", 11759, 146)
    for path in (spanish / "es" / "clips").rglob("*.opus"):
        path.rename(path.with_suffix(".wav"))
    fill(spanish, sound("WAV"))
    fill(names.mswc(data, "mswc-indonesian", "id", 739, 14), b"")
    return data


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_six_corpora_are_planned_with_the_counts_of_table_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data, storage = six(tmp_path / "data"), tmp_path / "storage"
    command = ["--datasets", "all", "--data", str(data), "--storage", str(storage), "--dry-run"]
    assert grid.main([*command, "--backbones", "wav2vec2-tiny", "--methods", "frozen"]) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^ *([\w-]+) +(\d+) +(\d+) +(\d+) / (\d+) / (\d+) +[\d.]+ min +\d+ *$", shown, re.MULTILINE)
    assert {name: tuple(map(int, counts)) for name, *counts in rows} == TABLE
    assert "4 source recordings lie in two of the official folds: 131943 (2, 3)" in shown
    assert "70 files with faults are left out (Sturm 2013)" in shown
    assert "clips left out" not in shown
    assert "byte for byte" not in shown
    assert "6 cells" in shown
