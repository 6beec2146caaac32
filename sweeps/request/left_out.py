"""Clips that no trial learns, and why: a table for the plan, and a file with all of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from audioconfit import files
from audioconfit.audio import Fault

FILE = "left-out.csv"
EXAMPLES = 3  # shown of each kind
COLUMNS = ("backbone", "file", "labels", "reason")


@dataclass(frozen=True)
class LeftOut:
    """One clip of a dataset that one backbone, or none, can learn."""

    fault: Fault
    backbone: str = ""  # empty: none of them

    @property
    def kind(self) -> tuple[str, str]:
        """What it shares with others: who cannot use it, and the reason without its numbers."""
        return self.backbone, self.fault.reason.partition(":")[0]


def folder_of(sweep: Path, dataset: str) -> Path:
    """The folder of a sweep that holds the dataset's file."""
    return sweep / "left-out" / dataset


def record(folder: Path, clips: Sequence[LeftOut]) -> None:
    """All of them in `folder`/left-out.csv; nothing is left of an earlier file where there are none."""
    if not clips:
        (folder / FILE).unlink(missing_ok=True)
        return
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for clip in clips:
        rows.writerow([clip.backbone, clip.fault.key, " ".join(clip.fault.labels), clip.fault.reason])
    files.write(folder / FILE, text.getvalue())


def table(dataset: str, clips: Sequence[LeftOut], *, of: int) -> Table:
    """A line for each kind: how many of the dataset's `of` clips, and the first three."""
    shown = Table(box=box.SIMPLE_HEAD, title=f"{escape(dataset)}: clips left out", title_justify="left")
    for name in ("Clips", "Reason", "Such as"):
        shown.add_column(name, justify="right" if name == "Clips" else "left", overflow="fold")
    for (backbone, reason), group in groupby(sorted(clips, key=lambda clip: clip.kind), key=lambda clip: clip.kind):
        alike = [clip.fault for clip in group]
        examples = [_example(fault) for fault in alike[:EXAMPLES]]
        more = ["..."] if len(alike) > EXAMPLES else []
        why = f"{reason} for {backbone}" if backbone else reason
        shown.add_row(f"{len(alike)} of {of}", escape(why), escape("\n".join(examples + more)))
    return shown


def _example(fault: Fault) -> str:
    about = fault.reason.partition(": ")[2]
    return f"{fault.key} ({about})" if about else fault.key
