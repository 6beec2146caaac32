"""ESC-50 (Piczak 2015): 2000 five-second clips of fifty environmental sounds, in five folds.

The folds were meant to share no source recording. In the official table four sources lie in two folds each.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip, Corpus
from audioconfit.corpora.sources import Archive, Source, first_folder
from audioconfit.errors import InputError

NAME = re.compile(r"(?P<fold>[1-5])-(?P<source>\d+)-[A-Z]-\d+")


def parse(folder: Path) -> Corpus | None:
    """ESC-50 from `folder`/meta/esc50.csv and audio/ (or one folder further down), or from a Parquet copy."""
    root = next((path for path in (folder, *sorted(folder.glob("*"))) if (path / "meta" / "esc50.csv").is_file()), None)
    clips = _native(folder, root) if root else _copied(folder)
    return Corpus("esc50", tuple(clips), protocol="official_folds", notes=_notes(clips)) if clips else None


def _notes(clips: list[Clip]) -> tuple[str, ...]:
    folds: dict[str, set[int]] = defaultdict(set)
    for clip in clips:
        assert clip.group is not None
        assert clip.fold is not None
        folds[clip.group].add(clip.fold)
    shared = [f"{source} ({', '.join(map(str, sorted(of)))})" for source, of in sorted(folds.items()) if len(of) > 1]
    if not shared:
        return ()
    return (
        f"{len(shared)} source recordings lie in two of the official folds: {', '.join(shared)}. The folds stand as "
        "they are; --protocol source_disjoint_folds moves each source into one fold.",
    )


def _native(folder: Path, root: Path) -> list[Clip]:
    audio = first_folder(root, "audio")
    present = {path.name for path in audio.iterdir()} if audio else set()
    with (root / "meta" / "esc50.csv").open(newline="", encoding="utf-8-sig") as table:
        rows = [row for row in csv.DictReader(table) if row["filename"] in present]
    return [
        _clip(row["filename"], row["category"], (path := root / "audio" / row["filename"]), _key(folder, path), None)
        for row in rows
    ]


def _key(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _copied(folder: Path) -> list[Clip]:
    return [
        _clip(row.file_name, str(label), row.path, row.key, row.number)
        for row in parquet.rows(folder)
        if NAME.fullmatch(Path(row.file_name).stem)
        and (label := next((v for name in ("category", "label") if (v := row.values.get(name)) is not None), None))
        is not None
    ]


def _clip(file_name: str, category: str, path: Path, key: str, row: int | None) -> Clip:
    """Fold and source recording stand in the file's name: {FOLD}-{SOURCE}-{TAKE}-{TARGET}.wav."""
    name = Path(file_name).stem
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(f"ESC-50's table lists {file_name!r}, which is not named FOLD-SOURCE-TAKE-TARGET.")
    return Clip(key, path, (category,), group=match["source"], fold=int(match["fold"]), row=row, name=name)


SOURCE = Source(
    name="esc50",
    title="ESC-50",
    task="acoustic event classification",
    clip_count=2000,
    class_count=50,
    seconds=(2 * 60 + 46) * 60,
    licence="CC BY-NC 3.0",
    homepage="https://github.com/karolpiczak/ESC-50",
    layout="meta/esc50.csv and audio/1-100032-A-0.wav ...",
    folders=("esc50", "esc-50", "esc-50-master", "esc_50", "esc50-parquet"),
    parse=parse,
    download=Archive("https://github.com/karolpiczak/ESC-50/archive/master.zip", size=645_000_000),
    how="github.com/karolpiczak/ESC-50, its master.zip unpacked",
)
