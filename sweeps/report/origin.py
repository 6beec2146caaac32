"""The origin: by which command, version and commit a sweep was started, and when; noted in its folder at each start."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import audioconfit
from audioconfit import files
from sweeps import faults

RECORD = "origin.json"


def note(folder: Path) -> None:
    """Of this process, in place of an earlier start's."""
    files.write(folder / RECORD, json.dumps({"command": command(), **here(), "started": now()}, indent=2))


def command() -> str:
    """What was typed, without passwords."""
    return faults.masked(shlex.join(["python", *sys.argv]))


def of(folder: Path) -> Mapping[str, str]:
    """What was noted; nothing of sweeps that were started by an earlier version."""
    path = folder / RECORD
    return files.read_json(path, "The next start of the sweep makes it anew.") if path.exists() else {}


def here() -> dict[str, str]:
    """This code's version and, where it runs from a checkout, its commit."""
    root = Path(audioconfit.__file__).parent
    try:
        asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        commit = subprocess.run(asked, cwd=root, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {"version": audioconfit.__version__} | ({"commit": commit} if commit else {})


def now() -> str:
    """To the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
