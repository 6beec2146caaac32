"""Environments that hold a few distributions and what these require: this one's packages, linked into a folder that is
all there is beside the standard library. As a fresh virtual environment, in no time.
"""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(*names: str) -> set[str]:
    """The distributions and all that they require here, as pip would install them."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        known = f"{wanted.name.lower()}[{','.join(sorted(wanted.extras))}]"
        if known in found:
            continue
        found.add(known)
        for line in distribution(wanted.name).requires or ():
            needed = Requirement(line)
            extras = [*wanted.extras, ""]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return {name.split("[")[0] for name in found}


def linked(folder: Path, *names: str) -> Path:
    """A folder of packages that holds `names` and what they require, and nothing else."""
    folder.mkdir()
    for name in required(*names):
        for first in holds(name):
            link = folder / first
            if not link.exists():
                link.symlink_to(Path(str(distribution(name).locate_file(first))).absolute())
    return folder


def holds(name: str) -> set[str]:
    """The folders and files of a distribution beside those of the others: its modules and what describes it."""
    # Not `files`, which asks the disk for each of 50,000 files; nor packages_distributions, which takes minutes.
    lines = (distribution(name).read_text("RECORD") or "").splitlines()
    return {line.split(",")[0].split("/")[0] for line in lines} - {"..", "__pycache__"}


def run(packages: Path, code: str, *words: str) -> str:
    """What `code` prints in a Python that knows the standard library and `packages` alone."""
    start = f"import sys; sys.path.append({str(packages)!r})\n"
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code, *words],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=packages.parent,
        env=kept | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
