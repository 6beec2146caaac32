"""Your own recordings: a folder per class, a CSV, TSV or Parquet manifest, or a Hugging Face data set on disk."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import AUDIO_SUFFIXES, SPLITS, Clip, Corpus, audio_files, split_name, visible_files
from audioconfit.errors import InputError

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's audio folders
SEPARATOR = "|"  # between the labels of one multi-label clip
MISSING = {"nan", "NaN", "null", "NULL", "None", "N/A", "n/a", "#N/A", "NA", "<NA>"}  # as libraries write an empty cell
REGION = re.compile(r"dr[1-8]", re.IGNORECASE)  # a folder of TIMIT
COLUMNS = {  # our word: the words that are taken for it
    "path": ("path", "file", "file_name", "filename", "audio"),
    "label": ("label", "labels", "class", "category", "target_name"),
    "split": ("split", "subset"),
    "group": ("group", "speaker", "speaker_id", "source"),
    "start": ("start", "start_seconds"),
    "end": ("end", "end_seconds"),
}
HUB_LABELS = (*COLUMNS["label"], "emotion", "genre", "keyword", "speaker", "target")


def parse(path: Path) -> Corpus:
    """The corpus at `path`, whatever shape of own data it is. InputError says which shapes are understood."""
    path = Path(os.path.abspath(path))  # "." and ".." have no name
    if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
        return _manifest(path)
    if not path.is_dir():
        raise InputError(
            f"{path} is neither a folder (one subfolder per class, or a saved Hugging Face data set) "
            f"nor a manifest ({', '.join(MANIFEST_SUFFIXES)} with the columns path,label[,split,group,start,end])."
        )
    return (
        _saved_dataset(path)
        or _parquet_folder(path)
        or _metadata(path)
        or _metadata_by_split(path)
        or _class_folders(path)
    )


def _corpus(name: str, folder: Path, clips: Iterable[Clip], notes: tuple[str, ...] = ()) -> Corpus:
    """Own data's corpus; a split that every clip names is kept, one that only some name is refused."""
    clips = tuple(clips)
    if clips and all(clip.labels == (clip.group,) for clip in clips):  # who speaks is what is to be learned
        clips = tuple(replace(clip, group=None) for clip in clips)
        notes = (*notes, "The groups are the labels themselves, and are not kept on one side of a split.")
    if not clips:
        raise InputError(f"{folder} holds no clips.")
    classes = sorted({label for clip in clips for label in clip.labels})
    if len(classes) < 2:
        raise InputError(f"{folder} holds a single class, {classes[0]!r}; a classifier takes two or more.")
    given = sum(clip.split is not None for clip in clips)
    if 0 < given < len(clips):
        without = next(clip.key for clip in clips if clip.split is None)
        raise InputError(f"{folder} names a split for {given} of {len(clips)} clips; {without} has none.")
    multi_label = any(len(clip.labels) != 1 for clip in clips)
    protocol = "given" if given else "random"
    return Corpus(_clean(name), clips, protocol=protocol, multi_label=multi_label, folder=folder, notes=notes)


def _clean(name: str) -> str:
    """The name without what the names of models, files and queries cannot hold."""
    return re.sub(r"[:/\\'\"]+", "-", name)


# --- a folder per class -------------------------------------------------------------------------------------------


def _class_folders(folder: Path) -> Corpus:
    """`folder`/<class>/**/<clip>, or `folder`/<split>/<class>/**/<clip> where every subfolder names a split."""
    paths = audio_files(folder)
    below = [path.relative_to(folder).parts for path in paths]
    tops = {parts[0] for parts in below if len(parts) > 1}
    by_split = bool(tops) and all(split_name(top) for top in tops)
    depth = 3 if by_split else 2
    loose = [parts for parts in below if len(parts) < depth]
    if not tops or (by_split and len(loose) == len(below)):
        raise InputError(
            f"{folder} has no class folders with audio files in them: expected {folder.name}/<class>/<clip>.wav."
        )
    clips = [
        Clip("/".join(parts), path, (parts[depth - 2],), split=split_name(parts[0]) if by_split else None)
        for path, parts in zip(paths, below, strict=True)
        if len(parts) >= depth
    ]
    if all(REGION.fullmatch(clip.label) for clip in clips):
        raise InputError(
            f"{folder} looks like TIMIT, whose folders are dialect regions. For its speakers put it into the data "
            "folder as 'timit' and ask for --datasets timit; for the regions list the recordings in a manifest."
        )
    notes = [f"{len(loose)} audio files lie outside the class folders and are left out."] if loose else []
    return _corpus(folder.name, folder, clips, (*notes, *_passed_over(folder, {clip.path for clip in clips})))


def _passed_over(folder: Path, taken: set[Path]) -> Iterator[str]:
    """Notes on files that are no recordings by their suffix, so that neither a class nor a part of one vanishes without
    a word.
    """
    others = [path for path in visible_files(folder) if path.suffix.lower() not in AUDIO_SUFFIXES]
    beside = Counter(path.suffix or path.name for path in others if path.parent in {path.parent for path in taken})
    if beside:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in beside.most_common(5))
        yield f"{beside.total()} files beside recordings are passed over for their suffix: {suffixes}."
    without = {path.parent for path in others} - {path.parent for path in taken} - {folder}
    if without:
        names = ", ".join(sorted(path.relative_to(folder).as_posix() for path in without)[:3])
        suffixes = ", ".join(sorted({path.suffix or path.name for path in others if path.parent in without})[:5])
        yield f"{len(without)} folders hold no recording that is known by its suffix: {names} (with {suffixes})."


# --- manifests ----------------------------------------------------------------------------------------------------


def _manifest(path: Path) -> Corpus:
    if path.suffix.lower() == ".parquet" and parquet.audio_column(parquet.schema(path)):
        return _corpus(path.stem, path.parent, _embedded(path.parent, [path]))
    return _corpus(path.stem, path.parent, *_listed(path))


def _metadata(folder: Path) -> Corpus | None:
    """Hugging Face's audio folder: a metadata.csv or metadata.jsonl beside the files."""
    path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    return replace(_manifest(path), name=_clean(folder.name)) if path else None


def _metadata_by_split(folder: Path) -> Corpus | None:
    """The same with one table per split: train/metadata.csv, test/metadata.csv, ..."""
    tables = [path for name in METADATA for path in sorted(folder.glob(f"*/{name}")) if split_name(path.parent.name)]
    if not tables:
        return None
    sides = {path.relative_to(folder).parts[0] for path in audio_files(folder)} - {
        table.parent.name for table in tables
    }
    if bare := sorted(side for side in sides if split_name(side)):
        raise InputError(
            f"{folder / bare[0]} has recordings and no {' or '.join(METADATA)}, as {tables[0].parent} has."
        )
    clips: list[Clip] = []
    notes: tuple[str, ...] = ()
    for table in tables:
        found, said = _listed(table)
        side = table.parent.name
        clips += [replace(clip, key=f"{side}/{clip.key}", split=split_name(side)) for clip in found]
        notes += said
    return _corpus(folder.name, folder, clips, notes)


def _listed(manifest: Path) -> tuple[list[Clip], tuple[str, ...]]:
    """Clips of a manifest, one per line, and a note on lines that name a recording again. Faults are reported by line,
    missing files all at once.
    """
    clips, missing = [], []
    present: dict[Path, bool] = {}
    for place, row in _lines(manifest):
        clip = _clip(manifest, place, row)
        if not present.setdefault(clip.path, clip.path.is_file()):
            missing.append(clip.path)
        clips.append(clip)
    if missing:
        shown = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(f"{manifest} names {len(missing)} files that are not there: {shown}")
    once, again = _once(manifest, clips)
    return _grouped_by_file(once), again


def _once(manifest: Path, clips: list[Clip]) -> tuple[list[Clip], tuple[str, ...]]:
    """Without clips that other spellings of a path (links, absolute paths, a/../b.wav) list again, and a note on them.

    Two lines of one key are left for Corpus to refuse. InputError: the lines say different things.
    """
    found: dict[tuple[str, float | None, float | None], Clip] = {}
    once, again = [], []
    for clip in clips:
        first = found.setdefault((os.path.realpath(clip.path), clip.start, clip.end), clip)
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


def _lines(manifest: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(where the line stands, our column names -> text) per line; InputError if path or label has no column."""
    if manifest.suffix.lower() == ".parquet":
        table = pq.read_table(manifest)
        names, records = table.column_names, table.to_pylist()
        lines: Iterable[tuple[str, Mapping[str, Any]]] = ((f"row {i}", row) for i, row in enumerate(records))
        yield from _renamed(manifest, names, lines)
        return
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        try:
            if manifest.suffix.lower() == ".jsonl":
                rows = _objects(manifest, file)
                names = list(dict.fromkeys(name for _, row in rows for name in row))
                yield from _renamed(manifest, names, rows)
                return
            yield from _renamed(manifest, *_cells(manifest, file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{manifest} is no UTF-8 table: {error}.") from None


def _objects(manifest: Path, file: TextIO) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place."""
    found = []
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{manifest}, line {number}: no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise InputError(
                    f'{manifest}, line {number}: no object of the kind {{"file_name": ..., "label": ...}}.'
                )
            found.append((f"line {number}", row))
    return found


def _cells(manifest: Path, file: TextIO) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Names of the columns, and the lines. In a TSV quotation marks are text, as in Common Voice's."""
    tabs = manifest.suffix.lower() == ".tsv"
    reader = csv.DictReader(
        file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names

    def lines() -> Iterator[tuple[str, dict[str, str]]]:
        for row in reader:
            if extra := row.pop(None, None):
                raise InputError(
                    f"{manifest}, line {reader.line_num}: {len(names) + len(extra)} cells, the header has "
                    f"{len(names)}. "
                    'Put a cell that holds a comma in "quotation marks".'
                )
            yield f"line {reader.line_num}", row

    return names, lines()


def _renamed(
    manifest: Path, names: list[str], lines: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, dict[str, str]]]:
    lowered = {name.lower(): name for name in names}
    chosen = {column: lowered[word] for column, words in COLUMNS.items() for word in reversed(words) if word in lowered}
    for needed in ("path", "label"):
        if needed not in chosen:
            raise InputError(f"{manifest} has no column {needed!r}; it has {', '.join(names) or 'no columns'}.")
    for place, row in lines:
        cells = {column: row.get(name) for column, name in chosen.items()}
        yield place, {column: _text(cell, column) for column, cell in cells.items()}


def _text(cell: Any, column: str = "label") -> str:
    """What a cell says; nothing where it is empty, or where a label or group is what libraries write for that."""
    if isinstance(cell, (list, tuple)):
        return SEPARATOR.join(text for each in cell if (text := _text(each)))
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    text = "" if cell is None or cell != cell else str(cell).strip()
    return "" if text in MISSING and column in ("label", "group") else text


def _clip(manifest: Path, place: str, row: Mapping[str, str]) -> Clip:
    if not row["path"]:
        raise InputError(f"{manifest}, {place}: no path.")
    labels = _labels(row["label"])
    if not labels:
        raise InputError(f"{manifest}, {place}: no label for {row['path']}.")
    start, end = (_seconds(manifest, place, name, row.get(name, "")) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{manifest}, {place}: end {end} s does not lie after start {start or 0.0} s.")
    whole = start is None and end is None
    stretch = "" if whole else f"#{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
    return Clip(
        key=Path(row["path"]).as_posix() + stretch,
        path=manifest.parent / row["path"],
        labels=labels,
        group=row.get("group") or None,
        split=_split(manifest, place, row.get("split", "")),
        start=start,
        end=end,
    )


def _labels(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.strip() for label in text.split(SEPARATOR) if label.strip()))


def _split(manifest: Path, place: str, word: str) -> str | None:
    split = split_name(word)
    if word and split is None:
        raise InputError(f"{manifest}, {place}: unknown split {word!r}; choose one of {', '.join(SPLITS)}.")
    return split


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


def _grouped_by_file(clips: list[Clip]) -> list[Clip]:
    """Two stretches of one recording may not be on both sides of a split: without a group, the recording is one."""
    real = {clip.path: os.path.realpath(clip.path) for clip in clips}
    names: dict[str, str] = {}
    for clip in clips:
        names.setdefault(real[clip.path], clip.key.split("#")[0])
    stretches = Counter(real[clip.path] for clip in clips if clip.group is None)
    shared = {path for path, count in stretches.items() if count > 1}
    return [
        replace(clip, group=names[real[clip.path]]) if clip.group is None and real[clip.path] in shared else clip
        for clip in clips
    ]


# --- Hugging Face data sets on disk -------------------------------------------------------------------------------


def _saved_dataset(folder: Path) -> Corpus | None:
    """What datasets' save_to_disk leaves: Arrow files, in one folder per split for a DatasetDict."""
    if not any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
        return None
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        parts = [folder / name for name in json.loads((folder / "dataset_dict.json").read_text())["splits"]]
    paths = [
        part / file["filename"]
        for part in parts
        for file in json.loads((part / "state.json").read_text())["_data_files"]
    ]
    return _corpus(folder.name, folder, _embedded(folder, paths))


def _parquet_folder(folder: Path) -> Corpus | None:
    """A folder of Parquet files, as the hub serves a data set."""
    paths = parquet.files(folder)
    return _corpus(folder.name, folder, _embedded(folder, paths)) if paths else None


def _embedded(folder: Path, paths: list[Path]) -> list[Clip]:
    clips = []
    for row in parquet.rows(folder, paths):
        column = next((name for name in HUB_LABELS if name in row.values), None)
        if column is None:
            columns = ", ".join(row.values) or "no columns"
            raise InputError(
                f"{row.path} has no label column ({', '.join(HUB_LABELS)}); beside audio it has {columns}."
            )
        labels = _labels(_text(row.values[column]))
        if not labels:
            raise InputError(f"{row.path}, row {row.number}: no label in the column {column!r}.")
        group = next((text for name in COLUMNS["group"] if (text := _text(row.values.get(name)))), None)  # 0 is one
        split = split_name(_text(row.values.get("split"))) or row.split
        clips.append(Clip(row.key, row.path, labels, group, split, row=row.number))
    # A data set that calls all of its one part "train" (the hub's habit) has not been split.
    return clips if {clip.split for clip in clips} != {"train"} else [replace(clip, split=None) for clip in clips]
