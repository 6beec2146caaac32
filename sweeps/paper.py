"""The report of a sweep: the paper's tables and figures and more, seconds on one core: `python sweeps/paper.py`.

Writes report.html (one page, no network needed), paper.md, every table as CSV and LaTeX and every figure as PNG and PDF
into the sweep's folder, or where --out says. Reads what the sweep has left, finished or not, and trains nothing; one
with `--methods pairtune,finetune` has both sides of each comparison. `--name a --name b` sets sweeps side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from audioconfit import errors
from sweeps.report import making
from sweeps.request import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 where there is no sweep."""
    parser = argparse.ArgumentParser(prog="python sweeps/paper.py", description=__doc__)
    parser.add_argument("--storage", help="of the sweeps; default $AUDIOCONFIT_STORAGE or storage")
    parser.add_argument("--name", action="append", help="of the sweep; default sweep; several side by side")
    parser.add_argument(
        "--out", type=Path, help="folder to write into; default STORAGE/NAME/paper, of several STORAGE/paper-A-B"
    )
    asked = parser.parse_args(arguments)
    names = list(dict.fromkeys(asked.name or [None]))
    return errors.guard(lambda: _write([flags.places(storage=asked.storage, name=n).folder for n in names], asked.out))


def _write(folders: Sequence[Path], out: Path | None) -> int:
    beside = folders[0].parent / f"paper-{'-'.join(folder.name for folder in folders)}"
    report = making.make(folders, out or (folders[0] / "paper" if len(folders) == 1 else beside))
    console = Console()
    console.print(report.text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written in {report.seconds:.1f} s to {report.folder}; look at {report.html}.", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
