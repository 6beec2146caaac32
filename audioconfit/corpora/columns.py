"""Columns: which column of a person's own table says what, by its known names or by the name that the person gives, and
what a cell says.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audioconfit.corpora.clips import SPLITS, split_name
from audioconfit.errors import InputError

SEPARATOR = "|"  # between the labels of one multi-label clip
MISSING = {"nan", "NaN", "null", "NULL", "None", "N/A", "n/a", "#N/A", "NA", "<NA>"}  # as libraries write an empty cell
DOUBTFUL = {  # classes, or no label?
    *("none", "nil", "-", "--", "?", "-1", "-1.0"),
    *("missing", "undefined", "unlabelled", "unlabeled"),
}
LISTED = re.compile(r"\[.*\]|\(.*\)|\{.*\}")  # a list that was written as text
MANIFEST = {  # our word: the names that are taken for it
    "path": ("path", "file", "file_name", "filename", "audio"),
    "label": ("label", "labels", "class", "category", "target_name"),
    "split": ("split", "subset"),
    "group": ("group", "speaker", "speaker_id", "source"),
    "start": ("start", "start_seconds"),
    "end": ("end", "end_seconds"),
}
EMBEDDED = {  # the same beside an audio column
    "label": (*MANIFEST["label"], "emotion", "genre", "keyword", "speaker", "target"),
    "split": ("split",),
    "group": MANIFEST["group"],
}


@dataclass(frozen=True)
class Columns:
    """Names of columns as a person gives them; None leaves a column to its known names.

    InputError: one column is to say two things.
    """

    label: str | None = None
    group: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for word, name in self.given.items():
            if others := [other for other, same in self.given.items() if same == name and other != word]:
                raise InputError(
                    f"The column {name!r} is named as the {word} and as the {others[0]}; it can say one of them."
                )

    @property
    def given(self) -> dict[str, str]:
        """Our word and the column that is named for it."""
        return {word: name for word, name in vars(self).items() if name is not None}

    def candidates(
        self, table: Path, names: Collection[str], known: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[str, ...]]:
        """The table's columns that may say each of the `known` words, the best first: the named one alone, else those
        with a known name. Who is named as the label is no group by its name, and the like.

        InputError: a named column is not there; two columns have the name that would be taken.
        """
        lowered = {name.lower(): name for name in names}
        self._check_once(table, names, known)
        named = {word: self._there(table, word, list(names)) for word in self.given}
        free = {low: name for low, name in lowered.items() if name not in named.values()}
        return {
            word: (named[word],) if word in named else _known(words, free if word in vars(self) else lowered)
            for word, words in known.items()
        }

    def _check_once(self, table: Path, names: Collection[str], known: Mapping[str, Sequence[str]]) -> None:
        spelled = Counter(name.lower() for name in names)
        for meaning, words in known.items():
            first = next((word for word in words if spelled[word]), "")
            if meaning not in self.given and spelled[first] > 1:
                raise InputError(
                    f"{table} has {spelled[first]} columns {first!r}; rename all but the one that is meant."
                )

    def _there(self, table: Path, word: str, names: list[str]) -> str:
        wanted = self.given[word]
        for name in names:
            if name == wanted:
                return name
        for name in names:
            if name.lower() == wanted.lower():
                return name
        raise InputError(
            f"{table} has no column {wanted!r} to be the {word}; it has {', '.join(names) or 'no columns'}."
        )


UNNAMED = Columns()


def _known(words: Sequence[str], lowered: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(lowered[word] for word in words if word in lowered)


def text(cell: Any, column: str = "label") -> str:
    """What a cell says; nothing where it is empty, or where a label or group is what libraries write for that."""
    if isinstance(cell, (list, tuple)):
        return SEPARATOR.join(said for each in cell if (said := text(each)))
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    said = "" if cell is None or cell != cell else str(cell).strip()
    return "" if said in MISSING and column in ("label", "group") else said


def labels(said: str) -> tuple[str, ...]:
    """The labels in the text of a label's cell."""
    return tuple(dict.fromkeys(label.strip() for label in said.split(SEPARATOR) if label.strip()))


def doubtful(labels: Iterable[str]) -> Iterator[str]:
    """Notes on labels, one per clip and label, that are taken as they stand and may mean something else."""
    counts = Counter(labels)
    if empty := [label for label in counts if label.lower() in DOUBTFUL]:
        shown = ", ".join(f"{label!r} ({counts[label]} clips)" for label in empty)
        yield f"Taken for classes: {shown}. Where one of them means that there is no label, leave the cell empty."
    alike: dict[str, list[str]] = {}
    for label in counts:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    if several := [same for same in alike.values() if len(same) > 1]:
        shown = "; ".join(" and ".join(f"{label!r} ({counts[label]} clips)" for label in same) for same in several[:3])
        yield f"Taken for different classes, spelled alike: {shown}{'; ...' if len(several) > 3 else ''}."
    if lists := [label for label in counts if LISTED.fullmatch(label)]:
        shown = ", ".join(map(repr, lists[:3])) + (", ..." if len(lists) > 3 else "")
        yield f"Taken for one label each: {shown}. Several labels of a clip are separated by {SEPARATOR!r}."


def split(place: str, word: str) -> str | None:
    """The split that the text of a cell names; InputError with its place where it is none."""
    found = split_name(word)
    if word and found is None:
        raise InputError(f"{place}: unknown split {word!r}; choose one of {', '.join(SPLITS)}.")
    return found
