"""Rows of Parquet and Arrow files that hold audio beside its labels: the hub's copies, saved Hugging Face data sets.

Only the labels are read here; the audio column's bytes stay on disk until a clip is decoded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audioconfit.corpora.clips import split_name
from audioconfit.errors import InputError

INNER_PATH = "audio's own path"  # what the audio struct calls the recording, as a column beside the labels


@dataclass(frozen=True)
class Row:
    """One row of one file, without its audio."""

    path: Path
    number: int
    key: str  # "data/train-00000-of-00001.parquet#17"
    file_name: str  # the recording's own file name, "" where the copy lost it
    split: str | None  # from the file's name or folder
    values: Mapping[str, Any]  # other columns; class ids already turned into names


def files(folder: Path, suffix: str = ".parquet") -> list[Path]:
    """Parquet (or Arrow) files below `folder`, sorted; unfinished downloads are hidden files and passed over."""
    found = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def rows(folder: Path, paths: list[Path] | None = None) -> Iterator[Row]:
    """Every row of the Parquet files below `folder` (or of `paths`), in the files' order."""
    for path in files(folder) if paths is None else paths:
        table = _labels(path)
        columns = table.to_pydict()
        split = split_of(path.relative_to(folder))
        for number in range(table.num_rows):
            values = {name: column[number] for name, column in columns.items()}
            inner = values.pop(INNER_PATH, None)
            named = next(
                (values[name] for name in ("file", "filename", "file_name", "path") if values.get(name)), inner
            )
            key = f"{path.relative_to(folder).as_posix()}#{number}"
            yield Row(path, number, key, Path(str(inner or named or "")).name, split, values)


def split_of(path: Path) -> str | None:
    """The split that a file's path names: data/train-00000-of-00001.parquet, spanish/test/0.parquet."""
    words = [path.name.split(".")[0].split("-")[0].split("_")[0], *reversed(path.parts[:-1])]
    return next((split for word in words if (split := split_name(word))), None)


def audio_bytes(path: Path, number: int) -> tuple[bytes, str]:
    """The encoded audio of one row and its file name. Consecutive rows read their row group once."""
    first, audio = _audio_column(path, _group_of(path, number))
    cell = audio[number - first].as_py()
    if isinstance(cell, bytes):
        return cell, ""
    return cell.get("bytes") or b"", cell.get("path") or ""


def audio_column(schema: pa.Schema) -> str | None:
    """The column that holds audio: a struct with bytes, or plain bytes called audio."""
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
        if field.name == "audio" and (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
            return "audio"
    return None


def schema(path: Path) -> pa.Schema:
    """The schema of a Parquet or Arrow file; InputError with the file's name where it is neither."""
    try:
        return _stream(path).schema if path.suffix == ".arrow" else pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no readable {path.suffix[1:]} file: {error}") from None


def _stream(path: Path) -> pa.RecordBatchStreamReader:
    return pa.ipc.open_stream(pa.memory_map(str(path)))


def _labels(path: Path) -> pa.Table:
    """The table without audio bytes; the audio struct's path becomes a column. Class ids become names."""
    fields = schema(path)
    audio = audio_column(fields)
    plain = [name for name in fields.names if name != audio]
    inside = audio is not None and pa.types.is_struct(fields.field(audio).type)
    inside = inside and fields.field(audio).type.get_field_index("path") >= 0
    if path.suffix == ".arrow":
        whole = _stream(path).read_all()
        table = whole.select(plain)
        if inside:
            table = table.append_column(INNER_PATH, pc.struct_field(whole[audio], "path"))
    else:
        with pq.ParquetFile(path) as file:  # a data set's reader would take "audio.path" for another column
            table = file.read(columns=[*plain, *([f"{audio}.path"] if inside else [])])
        if inside:
            table = table.select(plain).append_column(INNER_PATH, pc.struct_field(table[audio], "path"))
    return named_classes(table, fields)


def named_classes(table: pa.Table, fields: pa.Schema) -> pa.Table:
    """The table with names for class ids: Hugging Face keeps the names in the schema's metadata, ids in the column."""
    described = json.loads((fields.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name, feature in described.items():
        names = _class_names(feature)
        if names and name in table.column_names:
            cells = table[name].to_pylist()
            named = [_class_name(cell, names) for cell in cells]
            if named != cells:
                table = table.set_column(table.column_names.index(name), name, pa.array(named))
    return table


def _class_names(feature: Any) -> Sequence[str]:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        feature = {"feature": feature[0]} if len(feature) == 1 else None
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    return (feature.get("names") or ()) if isinstance(feature, dict) else ()


def _class_name(cell: Any, names: Sequence[str]) -> Any:
    """The name of an id, None for one that has none; names of a list's ids; what is no id as it is."""
    if isinstance(cell, list):
        return [_class_name(each, names) for each in cell]
    if isinstance(cell, int):
        return names[cell] if 0 <= cell < len(names) else None
    return cell


@lru_cache(maxsize=8)
def _group_starts(path: Path) -> tuple[int, ...]:
    """The first row of every row group (Parquet) or record batch (Arrow), and the number of rows."""
    if path.suffix == ".arrow":
        sizes = [batch.num_rows for batch in _stream(path)]
    else:
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return tuple(starts)


def _group_of(path: Path, number: int) -> int:
    starts = _group_starts(path)
    return next(i for i in range(len(starts) - 1) if number < starts[i + 1])


@lru_cache(maxsize=2)  # of threads that pass from one group to the next, none sends the other back
def _audio_column(path: Path, group: int) -> tuple[int, pa.ChunkedArray]:
    """The first row of a group and its audio column."""
    audio = audio_column(schema(path))
    if audio is None:
        raise InputError(f"{path} has no audio column.")
    first = _group_starts(path)[group]
    if path.suffix == ".arrow":
        batch = next(batch for i, batch in enumerate(_stream(path)) if i == group)
        return first, pa.chunked_array([batch.column(audio)])
    with pq.ParquetFile(path) as file:
        return first, file.read_row_group(group, columns=[audio])[audio]
