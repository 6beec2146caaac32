"""Your own recordings: a folder per class, a CSV, TSV or Parquet manifest, or a Hugging Face data set on disk."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import SPLITS, Clip, Corpus, audio_files, split_name

MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
SEPARATOR = "|"  # between the labels of one multi-label clip
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
    """The corpus at `path`, whatever shape of own data it is. ValueError says which shapes are understood."""
    if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
        return _manifest(path)
    if not path.is_dir():
        raise ValueError(
            f"{path} is neither a folder (one subfolder per class, or a saved Hugging Face data set) "
            f"nor a manifest ({', '.join(MANIFEST_SUFFIXES)} with the columns path,label[,split,group,start,end])."
        )
    return _saved_dataset(path) or _parquet_folder(path) or _metadata(path) or _class_folders(path)


def _corpus(name: str, folder: Path, clips: Iterable[Clip], notes: tuple[str, ...] = ()) -> Corpus:
    """Own data's corpus; a split that every clip names is kept, one that only some name is refused."""
    clips = tuple(clips)
    if not clips:
        raise ValueError(f"{folder} holds no clips.")
    classes = sorted({label for clip in clips for label in clip.labels})
    if len(classes) < 2:
        raise ValueError(f"{folder} holds a single class, {classes[0]!r}; a classifier takes two or more.")
    given = sum(clip.split is not None for clip in clips)
    if 0 < given < len(clips):
        without = next(clip.key for clip in clips if clip.split is None)
        raise ValueError(f"{folder} names a split for {given} of {len(clips)} clips; {without} has none.")
    multi_label = any(len(clip.labels) != 1 for clip in clips)
    protocol = "given" if given else "random"
    return Corpus(name, clips, protocol=protocol, multi_label=multi_label, folder=folder, notes=notes)


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
        raise ValueError(
            f"{folder} has no class folders with audio files in them: expected {folder.name}/<class>/<clip>.wav."
        )
    clips = [
        Clip("/".join(parts), path, (parts[depth - 2],), split=split_name(parts[0]) if by_split else None)
        for path, parts in zip(paths, below, strict=True)
        if len(parts) >= depth
    ]
    notes = (f"{len(loose)} audio files lie outside the class folders and are left out.",) if loose else ()
    return _corpus(folder.name, folder, clips, notes)


# --- manifests ----------------------------------------------------------------------------------------------------


def _manifest(path: Path) -> Corpus:
    if path.suffix.lower() == ".parquet" and parquet.audio_column(parquet.schema(path)):
        return _corpus(path.stem, path.parent, _embedded(path.parent, [path]))
    return _corpus(path.stem, path.parent, _listed(path))


def _metadata(folder: Path) -> Corpus | None:
    """Hugging Face's audio folder: a metadata.csv beside the files."""
    path = folder / "metadata.csv"
    return replace(_manifest(path), name=folder.name) if path.is_file() else None


def _listed(manifest: Path) -> list[Clip]:
    """Clips of a manifest, one per line. Faults are reported by line, missing files all at once."""
    clips, missing = [], []
    present: dict[Path, bool] = {}
    for place, row in _lines(manifest):
        clip = _clip(manifest, place, row)
        if not present.setdefault(clip.path, clip.path.is_file()):
            missing.append(clip.path)
        clips.append(clip)
    if missing:
        shown = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{manifest} names {len(missing)} files that are not there: {shown}")
    return _grouped_by_file(clips)


def _lines(manifest: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(where the line stands, our column names -> text) per line; ValueError if path or label has no column."""
    if manifest.suffix.lower() == ".parquet":
        table = pq.read_table(manifest)
        names, records = table.column_names, table.to_pylist()
        lines: Iterable[tuple[str, Mapping[str, Any]]] = ((f"row {i}", row) for i, row in enumerate(records))
        yield from _renamed(manifest, names, lines)
        return
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file, delimiter="\t" if manifest.suffix.lower() == ".tsv" else ",")
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            yield from _renamed(manifest, names, ((f"line {reader.line_num}", row) for row in reader))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{manifest} is no UTF-8 table: {error}") from None


def _renamed(
    manifest: Path, names: list[str], lines: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, dict[str, str]]]:
    lowered = {name.lower(): name for name in names}
    chosen = {column: lowered[word] for column, words in COLUMNS.items() for word in reversed(words) if word in lowered}
    for needed in ("path", "label"):
        if needed not in chosen:
            raise ValueError(f"{manifest} has no column {needed!r}; it has {', '.join(names) or 'no columns'}.")
    for place, row in lines:
        cells = {column: row.get(name) for column, name in chosen.items()}
        yield place, {column: _text(cell) for column, cell in cells.items()}


def _text(cell: Any) -> str:
    if isinstance(cell, (list, tuple)):
        return SEPARATOR.join(str(label) for label in cell)
    return "" if cell is None or cell != cell else str(cell).strip()


def _clip(manifest: Path, place: str, row: Mapping[str, str]) -> Clip:
    if not row["path"]:
        raise ValueError(f"{manifest}, {place}: no path.")
    labels = _labels(row["label"])
    if not labels:
        raise ValueError(f"{manifest}, {place}: no label for {row['path']}.")
    start, end = (_seconds(manifest, place, name, row.get(name, "")) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{manifest}, {place}: end {end} s does not lie after start {start or 0.0} s.")
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
        raise ValueError(f"{manifest}, {place}: unknown split {word!r}; choose one of {', '.join(SPLITS)}.")
    return split


def _seconds(manifest: Path, place: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{manifest}, {place}: {name} is {text!r}, not a number of seconds.")
    return seconds


def _grouped_by_file(clips: list[Clip]) -> list[Clip]:
    """Two stretches of one recording may not be on both sides of a split: without a group, the recording is one."""
    by_path = sorted((clip for clip in clips if clip.group is None), key=lambda clip: clip.path)
    shared = {path for path, same in groupby(by_path, key=lambda clip: clip.path) if len(list(same)) > 1}
    return [replace(clip, group=str(clip.key.split("#")[0])) if clip.path in shared else clip for clip in clips]


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
        label = next((row.values[name] for name in HUB_LABELS if row.values.get(name) is not None), None)
        if label is None:
            columns = ", ".join(row.values) or "no columns"
            raise ValueError(
                f"{row.path} has no label column ({', '.join(HUB_LABELS)}); beside audio it has {columns}."
            )
        group = next((row.values[name] for name in COLUMNS["group"] if row.values.get(name)), None)
        split = split_name(str(row.values.get("split") or "")) or row.split
        labels = _labels(_text(label))
        clips.append(Clip(row.key, row.path, labels, None if group is None else str(group), split, row=row.number))
    # A data set that calls all of its one part "train" (the hub's habit) has not been split.
    return clips if {clip.split for clip in clips} != {"train"} else [replace(clip, split=None) for clip in clips]
