"""Manifests: tables of own recordings, a line per recording or stretch of one, as CSV, TSV, JSON lines or Parquet."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from audioconfit.corpora import columns, parquet
from audioconfit.corpora.clips import Clip
from audioconfit.corpora.columns import Columns
from audioconfit.errors import InputError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def clips(manifest: Path, named: Columns) -> tuple[list[Clip], tuple[str, ...]]:
    """Clips of a manifest, one per line, and a note on lines that name a recording again. Faults are reported by line,
    missing files all at once.
    """
    found, missing = [], []
    present: dict[Path, bool] = {}
    paths: dict[str, tuple[str, Path]] = {}
    for place, row in _lines(manifest, named):
        clip = _clip(manifest, place, row, paths)
        if clip.path not in present:
            present[clip.path] = clip.path.is_file()
        if not present[clip.path]:
            missing.append(clip.path)
        found.append(clip)
    if missing:
        shown = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(f"{manifest} names {len(missing)} files that are not there: {shown}")
    real = _resolved(present)
    once, again = _once(manifest, found, real)
    return _grouped_by_file(once, real), again


def names_labels(table: Path) -> bool:
    """Whether a table has columns of recordings and of labels by their known names; one without rows has not."""
    try:
        return next(_lines(table, columns.UNNAMED), None) is not None
    except InputError:
        return False


def _resolved(paths: Iterable[Path]) -> dict[Path, str]:
    """Each path with its links followed; those of a folder are followed once, for a million files may lie in it."""
    folders: dict[str, str] = {}
    found = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        inside = os.path.join(folders[folder], name)
        found[path] = os.path.realpath(inside) if os.path.islink(inside) else inside
    return found


def _once(manifest: Path, clips: list[Clip], real: Mapping[Path, str]) -> tuple[list[Clip], tuple[str, ...]]:
    """Without clips that other spellings of a path (links, absolute paths, a/../b.wav) list again, and a note on them.

    Two lines of one key are left for Corpus to refuse. InputError: the lines say different things.
    """
    found: dict[tuple[str, float | None, float | None], Clip] = {}
    once, again = [], []
    for clip in clips:
        first = found.setdefault((real[clip.path], clip.start, clip.end), clip)
        if first is clip or first.key == clip.key:
            once.append(clip)
        elif (first.labels, first.group, first.split) != (clip.labels, clip.group, clip.split):
            raise InputError(f"{manifest} names one recording as {first.key} and {clip.key}, and tells them apart.")
        else:
            again.append(f"{clip.key} is {first.key}")
    if not again:
        return once, ()
    shown = ", ".join(again[:3]) + (", ..." if len(again) > 3 else "")
    return once, (f"{len(again)} lines name a recording again by another path, and are left out: {shown}.",)


def _lines(manifest: Path, named: Columns) -> Iterator[tuple[str, dict[str, str]]]:
    """(where the line stands, our column names -> text) per line; InputError if path or label has no column."""
    if manifest.suffix.lower() == ".parquet":
        names, records = _records(manifest)
        lines: Iterable[tuple[str, Mapping[str, Any]]] = ((f"row {i}", row) for i, row in enumerate(records))
        yield from _renamed(manifest, named, names, lines)
        return
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        try:
            if manifest.suffix.lower() == ".jsonl":
                rows = _objects(manifest, file)
                names = list(dict.fromkeys(name for _, row in rows for name in row))
                yield from _renamed(manifest, named, names, rows)
                return
            yield from _renamed(manifest, named, *_cells(manifest, file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{manifest} is no UTF-8 table: {error}.") from None


def _records(manifest: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns and rows of a Parquet table."""
    try:
        table = pq.read_table(manifest)
        table = parquet.named_classes(table, table.schema)
        return table.column_names, table.to_pylist()
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{manifest} is damaged, or no Parquet table: {why}.") from None


def _objects(manifest: Path, file: TextIO) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place."""
    found = []
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{manifest}, line {number}: no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise InputError(
                    f'{manifest}, line {number}: no object of the kind {{"file_name": ..., "label": ...}}.'
                )
            found.append((f"line {number}", row))
    return found


def _cells(manifest: Path, file: TextIO) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Names of the columns, and the lines. In a TSV quotation marks are text, as in Common Voice's."""
    # Strict: a quotation mark that is not closed would make one cell of the lines that follow.
    if manifest.suffix.lower() == ".tsv":
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.DictReader(file, strict=True)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names

    def lines() -> Iterator[tuple[str, dict[str, str]]]:
        while row := _next(manifest, reader):
            if extra := row.pop(None, None):
                raise InputError(
                    f"{manifest}, line {reader.line_num}: {len(names) + len(extra)} cells, the header has "
                    f"{len(names)}. "
                    'Put a cell that holds a comma in "quotation marks".'
                )
            yield f"line {reader.line_num}", row

    return names, lines()


def _next(manifest: Path, reader: "csv.DictReader[str]") -> dict[Any, Any] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise InputError(
            f"{manifest}, the line or lines up to {reader.line_num}: {error}. A quotation mark is not closed, or "
            "stands alone within a cell that begins with one; there it is written twice."
        ) from None


def _renamed(
    manifest: Path, named: Columns, names: list[str], lines: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, dict[str, str]]]:
    candidates = named.candidates(manifest, names, columns.MANIFEST)
    chosen = {word: those[0] for word, those in candidates.items() if those}
    for needed in ("path", "label"):
        if needed not in chosen:
            way_out = " --label-column names it." if needed == "label" else ""
            if way_out and manifest.stem == "metadata":
                way_out += " Where the folders are the classes, move the table away."
            raise InputError(
                f"{manifest} has no column {needed!r}; it has {', '.join(names) or 'no columns'}.{way_out}"
            )
    for place, row in lines:
        yield place, {word: columns.text(row.get(name), word) for word, name in chosen.items()}


def _clip(manifest: Path, place: str, row: Mapping[str, str], paths: dict[str, tuple[str, Path]]) -> Clip:
    """`paths`: of the lines before, by their text: as a key, and where the file is."""
    if not row["path"]:
        raise InputError(f"{manifest}, {place}: no path.")
    labels = columns.labels(row["label"])
    if not labels:
        raise InputError(f"{manifest}, {place}: no label for {row['path']}.")
    start, end = (_seconds(manifest, place, name, row.get(name, "")) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{manifest}, {place}: end {end} s does not lie after start {start or 0.0} s.")
    whole = start is None and end is None
    stretch = "" if whole else f"#{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
    if (said := row["path"]) not in paths:
        paths[said] = Path(said).as_posix(), manifest.parent / said
    key, path = paths[said]
    return Clip(
        key=key + stretch,
        path=path,
        labels=labels,
        group=row.get("group") or None,
        split=columns.split(f"{manifest}, {place}", row.get("split", "")),
        start=start,
        end=end,
    )


def _seconds(manifest: Path, place: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{manifest}, {place}: {name} is {text!r}, not a number of seconds.")
    return seconds


def _grouped_by_file(clips: list[Clip], real: Mapping[Path, str]) -> list[Clip]:
    """Two stretches of one recording may not be on both sides of a split: without a group, the recording is one."""
    names: dict[str, str] = {}
    for clip in clips:
        names.setdefault(real[clip.path], clip.key.split("#")[0])
    stretches = Counter(real[clip.path] for clip in clips if clip.group is None)
    shared = {path for path, count in stretches.items() if count > 1}
    return [
        replace(clip, group=names[real[clip.path]]) if clip.group is None and real[clip.path] in shared else clip
        for clip in clips
    ]
