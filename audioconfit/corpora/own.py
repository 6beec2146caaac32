"""Your own recordings: a folder per class, a manifest, an audio folder with its metadata, or a Hugging Face data set on
disk.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from audioconfit import files
from audioconfit.corpora import columns, manifests, parquet, timit
from audioconfit.corpora.clips import AUDIO_SUFFIXES, Clip, Corpus, audio_files, broken_links, split_name, visible_files
from audioconfit.corpora.columns import UNNAMED, Columns
from audioconfit.corpora.parquet import Row
from audioconfit.errors import InputError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's audio folders


def parse(path: Path, named: Columns = UNNAMED) -> Corpus:
    """The corpus at `path`, whatever shape of own data it is, its columns as they are `named` or known. InputError says
    which shapes are understood.
    """
    path = Path(os.path.abspath(path))  # "." and ".." have no name
    if path.suffix.lower() in manifests.SUFFIXES and files.is_file(path):
        return _noted(_manifest(path, named), named)
    if not files.is_folder(path):
        raise InputError(
            f"{path} is neither a folder (one subfolder per class, or a saved Hugging Face data set) "
            f"nor a manifest ({', '.join(manifests.SUFFIXES)} with the columns path,label[,split,group,start,end])."
        )
    for read in (_saved_dataset, _parquet_folder, _metadata, _metadata_by_split):
        if corpus := read(path, named):
            return _noted(corpus, named)
    for word, name in named.given.items():
        raise InputError(f"{path} has no table, so no column {name!r} to be the {word}: its folders are the classes.")
    return _class_folders(path)


def _noted(corpus: Corpus, named: Columns) -> Corpus:
    """The corpus with a note on the named columns. Where the label is who speaks, another column for the same speakers
    is no group: it would keep each class on one side.
    """
    if not named.given:
        return corpus
    said = ", ".join(f"the {word} is the column {name!r}" for word, name in named.given.items())
    notes = (f"As asked, {said}.", *corpus.notes)
    pairs = {(clip.labels, clip.group) for clip in corpus.clips}
    one_to_one = len(pairs) == len({label for label, _ in pairs}) == len({group for _, group in pairs})
    speakers = named.group is None and (named.label or "").lower() in columns.MANIFEST["group"]
    if speakers and one_to_one:
        clips = tuple(replace(clip, group=None) for clip in corpus.clips)
        return replace(
            corpus, clips=clips, notes=(*notes, "The groups name the same speakers as the labels: no groups.")
        )
    return replace(corpus, notes=notes)


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
    notes = (*notes, *columns.doubtful(label for clip in clips for label in clip.labels))
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
    if paths and all(timit.is_recording(path) for path in paths):
        raise InputError(
            f"{timit.tree_below(folder) or folder} looks like TIMIT, whose folders are dialect regions. For its "
            "speakers put it into the data folder as 'timit' and ask for --datasets timit; for the regions list the "
            "recordings in a manifest."
        )
    _check_tables(folder, paths)
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
    notes = [f"{len(loose)} audio files lie outside the class folders and are left out."] if loose else []
    return _corpus(folder.name, folder, clips, (*notes, *_passed_over(folder, {clip.path for clip in clips})))


def _check_tables(folder: Path, recordings: Iterable[Path]) -> None:
    """InputError where a table of labels lies between `folder` and its recordings and would not be read: Hugging
    Face's audio folders take such labels and not the folders' names.
    """
    parents = {path.parent for path in recordings}
    parents |= {above for parent in parents for above in parent.parents if folder in above.parents}
    for path in (parent / name for parent in sorted(parents) for name in METADATA):
        if path.is_file() and manifests.names_labels(path):
            raise InputError(
                f"{path} names labels, and is not read from {folder}, whose folders would be the classes. Give its "
                "folder as the dataset, or move the table away if the folders are right."
            )


def _passed_over(folder: Path, taken: set[Path]) -> Iterator[str]:
    """Notes on files that are no recordings by their suffix, so that neither a class nor a part of one vanishes without
    a word.
    """
    if dangling := sorted(broken_links(folder)):
        shown = ", ".join(path.relative_to(folder).as_posix() for path in dangling[:3])
        more = ", ..." if len(dangling) > 3 else ""
        yield f"{len(dangling)} links lead nowhere: {shown}{more}."
    if tables := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in manifests.SUFFIXES):
        yield f"{', '.join(tables[:3])} is not read, the folders are the classes; a table can be given as the dataset."
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


def _manifest(path: Path, named: Columns) -> Corpus:
    if path.suffix.lower() == ".parquet" and parquet.audio_column(parquet.schema(path)):
        return _corpus(path.stem, path.parent, _embedded(path.parent, [path], named))
    return _corpus(path.stem, path.parent, *manifests.clips(path, named))


def _metadata(folder: Path, named: Columns) -> Corpus | None:
    """Hugging Face's audio folder: a metadata.csv, .jsonl or .parquet beside the files."""
    path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if path is None:
        return None
    corpus = _manifest(path, named)
    return replace(corpus, name=_clean(folder.name), notes=(*corpus.notes, *_unlisted([path], corpus.clips)))


def _unlisted(tables: list[Path], clips: Iterable[Clip]) -> Iterator[str]:
    """A note on recordings beside or below tables that do not list them, as Hugging Face's audio folders leave out."""
    listed = {os.path.realpath(clip.path) for clip in clips}
    for table in tables:
        left = [path for path in audio_files(table.parent) if os.path.realpath(path) not in listed]
        if left:
            where = f"{table.parent.name}/{table.name}"  # the same on every machine
            shown = ", ".join(path.relative_to(table.parent).as_posix() for path in left[:3])
            more = ", ..." if len(left) > 3 else ""
            yield f"{len(left)} recordings are not listed in {where} and are left out: {shown}{more}."


def _metadata_by_split(folder: Path, named: Columns) -> Corpus | None:
    """The same with one table per split: train/metadata.csv, test/metadata.csv, ... A column that is named as the split
    goes before the folders.
    """
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
        found, said = manifests.clips(table, named)
        side = table.parent.name
        clips += [
            replace(clip, key=f"{side}/{clip.key}", split=clip.split if named.split else split_name(side))
            for clip in found
        ]
        notes += said
    return _corpus(folder.name, folder, clips, (*notes, *_unlisted(tables, clips)))


# --- Hugging Face data sets on disk -------------------------------------------------------------------------------


def _saved_dataset(folder: Path, named: Columns) -> Corpus | None:
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
    return _corpus(folder.name, folder, _embedded(folder, paths, named))


def _parquet_folder(folder: Path, named: Columns) -> Corpus | None:
    """A folder of Parquet files, as the hub serves a data set. One that is called as metadata lists recordings."""
    paths = [path for path in parquet.files(folder) if path.name not in METADATA]
    for path in paths:
        if parquet.audio_column(fields := parquet.schema(path)) is None:
            raise InputError(
                f"{path} has no column of recordings (bytes called audio, or a struct that has bytes); it has "
                f"{', '.join(fields.names)}. If it lists files, name it by its own path."
            )
    return _corpus(folder.name, folder, _embedded(folder, paths, named)) if paths else None


def _embedded(folder: Path, paths: list[Path], named: Columns) -> list[Clip]:
    tables = groupby(parquet.rows(folder, paths), key=lambda row: row.path)
    clips = [clip for path, rows in tables for clip in _of_table(path, list(rows), named)]
    # A data set that calls all of its one part "train" (the hub's habit) has not been split.
    unsplit = named.split is None and {clip.split for clip in clips} == {"train"}
    return [replace(clip, split=None) for clip in clips] if unsplit else clips


def _of_table(path: Path, rows: list[Row], named: Columns) -> Iterator[Clip]:
    names = rows[0].values
    found = named.candidates(path, names, columns.EMBEDDED)
    if not found["label"]:
        raise InputError(
            f"{path} has no label column ({', '.join(columns.EMBEDDED['label'])}); beside audio it has "
            f"{', '.join(names) or 'no columns'}. --label-column names it."
        )
    label = found["label"][0]
    for row in rows:
        place = f"{path}, row {row.number}"
        labels = columns.labels(columns.text(row.values[label]))
        if not labels:
            raise InputError(f"{place}: no label in the column {label!r}.")
        group = next((text for name in found["group"] if (text := columns.text(row.values[name]))), None)  # 0 is one
        said = next((columns.text(row.values[name], "split") for name in found["split"]), "")
        split = columns.split(place, said) if named.split else split_name(said) or row.split
        yield Clip(row.key, path, labels, group, split, row=row.number)
