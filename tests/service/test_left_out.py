"""Clips that are left out: a line for each kind and its first three, and a file with all."""

import csv
import io
from pathlib import Path

from rich.console import Console

from audioconfit.audio import Fault
from sweeps.request import left_out
from sweeps.request.left_out import LeftOut

SHORT = [LeftOut(Fault(f"a/{number}.wav", f"too short: 0.0{number} s", ("a",)), "hubert") for number in range(10, 15)]
CLIPS = [LeftOut(Fault("b/[x].wav", "silent", ("b",))), *SHORT, LeftOut(Fault("a/9.wav", "too short: 0.001 s", ("a",)))]


def test_the_table_has_a_line_for_each_kind() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(left_out.table("birds", CLIPS, of=40))
    lines = [line.strip() for line in console.export_text().splitlines() if line.strip()]
    shown = [" ".join(line.split()) for line in lines[3:]]
    assert lines[0] == "birds: clips left out"
    assert shown == [
        "1 of 40 silent b/[x].wav",
        "1 of 40 too short a/9.wav (0.001 s)",
        "5 of 40 too short for hubert a/10.wav (0.010 s)",
        "a/11.wav (0.011 s)",
        "a/12.wav (0.012 s)",
        "...",
    ]


def test_the_file_has_them_all_and_goes_with_the_last(tmp_path: Path) -> None:
    folder = left_out.folder_of(tmp_path, "birds")
    left_out.record(folder, CLIPS)
    with (folder / "left-out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [clip.fault.key for clip in CLIPS]
    assert rows[1] == {"backbone": "hubert", "file": "a/10.wav", "labels": "a", "reason": "too short: 0.010 s"}
    left_out.record(folder, [])
    assert not (folder / "left-out.csv").exists()
