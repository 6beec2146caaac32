"""Values: a table as plain values. A cell of it is a word, a number or None."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = str | int | float | None
TITLES = {"finetune": "FineTune", "pairtune": "PairTune", "frozen": "frozen"}
SEARCHED: dict[str, Callable[[str], int | float | str]] = {
    "batch_size": int,
    "chunk_seconds": float,
    "probe_lr": float,
    "probe_layer": str,
}


def searched(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[str], int | float | str | bool]]:
    """What these cells' searches vary, and how each value is read: `cells` are their settings by name."""
    further = dict.fromkeys(name for settings in cells.values() for name in settings.get("search", ()))
    return {**SEARCHED, **{name: _read for name in further if name not in SEARCHED}}


def _read(text: str) -> int | float | str | bool:
    """A number, true or false, else a word."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float) else text


@dataclass(frozen=True)
class Table:
    """`name` is that of its file; `marked` are the (row, column) that stand out."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    marked: frozenset[tuple[int, int]] = frozenset()
