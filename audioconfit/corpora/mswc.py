"""Two languages of the Multilingual Spoken Words Corpus (Mazumder et al. 2021): keywords of one second.

The paper's MSWC-S is Spanish. Its MSWC-I, "Indian", is the configuration `ind` of sil-ai/audio-keyword-spotting, whose
ISO 639-3 code stands for Indonesian; hence the names mswc-spanish and mswc-indonesian.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import SPLITS, Clip, Corpus, audio_files, split_name
from audioconfit.corpora.sources import Hub, Source
from audioconfit.errors import InputError

LINK = ("link", "file", "path", "filename", "file_name")
KEYWORD = ("word", "keyword", "label")


def parser(name: str) -> Callable[[Path], Corpus | None]:
    """The parser of one language: clips/<keyword>/<name>.opus (or .wav) with lists of the splits, or Parquet."""

    def parse(folder: Path) -> Corpus | None:
        clips, notes = _native(folder)
        clips = clips or list(_copied(folder))
        return Corpus(name, tuple(clips), protocol="given", notes=notes) if clips else None

    return parse


def _native(folder: Path) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips of the lists. One that several sides list does not train: it tests, or else validates."""
    clips = next((path for path in sorted(folder.rglob("clips")) if path.is_dir()), None)
    if clips is None:
        return [], ()
    # A list may say .opus where the copy was converted to .wav.
    present = {path.relative_to(clips).with_suffix("").as_posix(): path for path in audio_files(clips)}
    sides: dict[str, set[str]] = defaultdict(set)
    for table in sorted(clips.parent.iterdir()):
        for link, split in _list(table):
            if link in present:
                sides[link].add(split)
    several = sorted(link for link, listed in sides.items() if len(listed) > 1)
    shown = ", ".join(several[:3])
    notes = (
        (f"{len(several)} clips are listed on several sides and kept on the last of them: {shown}.",) if several else ()
    )
    return [
        Clip(
            present[link].relative_to(folder).as_posix(),
            present[link],
            (link.split("/")[0],),
            split=max(listed, key=SPLITS.index),
        )
        for link, listed in sorted(sides.items())
    ], notes


def _list(table: Path) -> Iterator[tuple[str, str]]:
    """(keyword/name, split) per line of es_splits.csv (column SET) or of es_train.csv, validation.tsv, test.txt, ..."""
    if table.suffix.lower() not in (".csv", ".tsv", ".txt") or not table.is_file():
        return
    named = split_name(table.stem.split("_")[-1])
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
        lines = [cells for cells in rows if any(cells)]
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    link = next((header.index(word) for word in LINK if word in header), None)
    word = next((header.index(word) for word in KEYWORD if word in header), None)
    part = header.index("set") if "set" in header else None
    for cells in lines if link is None else lines[1:]:
        if len(cells) < len(header) and link is not None:
            raise InputError(f"{table}: a line with {len(cells)} cells ({cells[0]}), the header has {len(header)}.")
        split = split_name(cells[part]) if part is not None else named
        if split is None:
            continue
        stem = Path(cells[link or 0].strip()).with_suffix("").as_posix()
        yield (stem if "/" in stem or word is None else f"{cells[word].strip()}/{stem}"), split


def _copied(folder: Path) -> Iterator[Clip]:
    for row in parquet.rows(folder):
        keyword = next((row.values[name] for name in KEYWORD if row.values.get(name) is not None), None)
        if keyword is not None and row.split is not None:
            yield Clip(row.key, row.path, (str(keyword),), split=row.split, row=row.number)


SPANISH = Source(
    name="mswc-spanish",
    title="MSWC Spanish",
    task="keyword spotting",
    clip_count=11759,
    class_count=146,
    seconds=(3 * 60 + 15) * 60,
    licence="CC BY 4.0",
    homepage="https://huggingface.co/datasets/sil-ai/audio-keyword-spotting",
    layout="es/clips/<keyword>/<name>.opus and es/es_splits.csv",
    folders=("mswc-spanish", "mswc_spanish", "mswc-s", "mswc/es", "mswc/spa", "mswc/spanish", "mswc-parquet/spanish"),
    parse=parser("mswc-spanish"),
    download=Hub("confit/mswc-parquet", ("spanish/*.parquet", "data/spanish*.parquet"), 400_000_000),
    how="data set confit/mswc-parquet of the Hugging Face hub, Spanish",
)
INDONESIAN = Source(
    name="mswc-indonesian",
    title="MSWC Indonesian",
    task="keyword spotting",
    clip_count=739,
    class_count=14,
    seconds=12 * 60,
    licence="CC BY 4.0",
    homepage="https://huggingface.co/datasets/sil-ai/audio-keyword-spotting",
    layout="id/clips/<keyword>/<name>.opus and id/id_splits.csv",
    folders=(
        *("mswc-indonesian", "mswc_indonesian", "mswc-indian", "mswc-i"),
        *("mswc/id", "mswc/ind", "mswc/indonesian", "mswc/indian", "mswc-parquet/indian"),
    ),
    parse=parser("mswc-indonesian"),
    download=Hub("confit/mswc-parquet", ("indian/*.parquet", "data/indian*.parquet"), 25_000_000),
    how="data set confit/mswc-parquet of the Hugging Face hub, Indonesian",
)
