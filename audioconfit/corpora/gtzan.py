"""GTZAN (Tzanetakis and Cook 2002): ten genres, thirty seconds each, 1000 files of which 930 are sound.

Sturm 2013 found repeated, distorted and mislabelled files; `gtzan.txt` beside this file holds the lists without them.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip, Corpus, audio_files
from audioconfit.corpora.sources import Archive, Source

NAME = re.compile(r"(?P<genre>[a-z]+)\.(?P<number>\d{5})")


@cache
def fault_filtered() -> dict[str, str]:
    """The split of each of the 930 files of the lists: blues.00029 -> train."""
    text = resources.files("audioconfit.corpora").joinpath("gtzan.txt").read_text()
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: split for split, name in lines}


def parse(folder: Path) -> Corpus | None:
    """GTZAN from <genre>/<genre>.NNNNN.wav (or .au, ...) anywhere below `folder`, or from a Parquet copy."""
    found: dict[str, Clip] = {}
    for clip in (*_native(folder), *_copied(folder)):
        found.setdefault(clip.name, clip)  # a copy that has wav files beside the au files counts once
    if not found:
        return None
    clips = tuple(found[name] for name in sorted(found) if name in fault_filtered())
    if not clips:
        return None
    left_out = len(found) - len(clips)
    notes = (f"{left_out} files with faults are left out (Sturm 2013).",) if left_out else ()
    return Corpus("gtzan", clips, protocol="fault_filtered", notes=notes)


def _native(folder: Path) -> Iterator[Clip]:
    for path in audio_files(folder):
        if NAME.fullmatch(path.stem):
            yield _clip(path.stem, path.relative_to(folder).as_posix(), path, None)


def _copied(folder: Path) -> Iterator[Clip]:
    for row in parquet.rows(folder):
        name = Path(row.file_name).stem
        if NAME.fullmatch(name):
            yield _clip(name, row.key, row.path, row.number)


def _clip(name: str, key: str, path: Path, row: int | None) -> Clip:
    return Clip(key, path, (name.split(".")[0],), split=fault_filtered().get(name), row=row, name=name)


SOURCE = Source(
    name="gtzan",
    title="GTZAN",
    task="genre classification",
    clip_count=930,
    class_count=10,
    seconds=(8 * 60 + 20) * 60,
    licence="none stated, research use",
    homepage="https://huggingface.co/datasets/marsyas/gtzan",
    layout="genres/blues/blues.00000.wav ...",
    folders=("gtzan", "genres", "genres_original"),
    parse=parse,
    download=Archive(
        "https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/genres.tar.gz",
        size=1_225_571_541,
        sha256="24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6",
    ),
    how="data set marsyas/gtzan of the Hugging Face hub, its genres.tar.gz unpacked",
)
