"""Values: a table as plain values. A cell of it is a word, a number or None."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Value = str | int | float | None
TITLES = {"finetune": "FineTune", "pairtune": "PairTune", "frozen": "frozen"}
SEARCHED: dict[str, Callable[[str], int | float | str]] = {
    "batch_size": int,
    "chunk_seconds": float,
    "probe_lr": float,
    "probe_layer": str,
}


@dataclass(frozen=True)
class Table:
    """`name` is that of its file; `marked` are the (row, column) that stand out."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    marked: frozenset[tuple[int, int]] = frozenset()
