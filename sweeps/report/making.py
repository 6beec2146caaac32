"""Making a report: from the folders of sweeps to files. Trains nothing and reads nothing but the sweeps' folders."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audioconfit import files
from sweeps.report import origin, page, pictures, record, tables, writers

PAGE, HTML = "paper.md", "report.html"


@dataclass(frozen=True)
class Report:
    """What was written, and how long it took."""

    folder: Path
    text: str  # in Markdown
    seconds: float

    @property
    def html(self) -> Path:
        return self.folder / HTML


def make(sweeps: Sequence[Path], out: Path, *, most_clips: int | None = None, ended: bool = False) -> Report:
    """One report of these sweeps into `out`: paper.md, report.html, and each table as CSV and LaTeX, each figure as PNG
    and PDF. `most_clips`: maps of more test clips are left out; `ended` as in record.read.

    InputError: no sweep has begun in one of them.
    """
    began = time.monotonic()
    records = [record.read(folder, ended=ended) for folder in sweeps]
    out.mkdir(parents=True, exist_ok=True)
    found = tables.of(records)
    for table in found:
        files.write(out / f"{table.name}.csv", writers.csv(table))
        files.write(out / f"{table.name}.tex", writers.latex(table))
    drawn = [
        picture
        for each in records
        for picture in pictures.draw(
            each, out, prefix=f"{each.name}-" if len(records) > 1 else "", most_clips=most_clips
        )
    ]
    missing = [f"- {each.name}: {said}" for each in records for said in each.missing()]
    parts = ["\n".join(missing) + "\n"] if missing else []
    parts += [writers.markdown(table) for table in found]
    parts += [f"**{one.title}.** {one.said}\n\n![]({one.path.name})\n" for one in drawn]
    text = "\n".join(parts)
    files.write(out / PAGE, text)
    made = origin.here() | {"written": origin.now()}
    origins = {each.name: {**origin.of(each.folder), "folder": str(each.folder)} for each in records}
    files.write(out / HTML, page.html(records, found, drawn, made=made, origins=origins))
    return Report(out, text, time.monotonic() - began)
