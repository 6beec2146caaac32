"""Blocks: the code in the Markdown pages, as tests run it."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def pages() -> list[Path]:
    """Every Markdown page of the repository; a sweep's storage, which may lie beside them, holds model cards."""
    rooms = [ROOT / "audioconfit", ROOT / "sweeps", ROOT / "tests"]
    return sorted([*ROOT.glob("*.md"), *(page for room in rooms for page in room.rglob("*.md"))])


def blocks(page: Path, *, section: str | None = None, language: str = "python") -> list[str]:
    """The page's blocks in one language; with `section` only those under that heading."""
    text = page.read_text()
    if section is not None:
        (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(block: str) -> dict[str, Any]:
    """The names that the block leaves."""
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(block, "block", "exec"), names)
    return names
