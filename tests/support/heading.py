"""The head of each benchmark's table: where and when it was measured."""

import os
import subprocess
import time
from pathlib import Path


def show(title: str) -> None:
    """Prints the title with cores, load, date and commit."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"\n{title}\n{cores} cores under load {load:.1f}, {time.strftime('%Y-%m-%d')}, commit {commit}")
