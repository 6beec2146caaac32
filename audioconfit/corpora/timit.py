"""TIMIT (LDC93S1): ten sentences by each of 630 speakers; the task is to say who speaks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip, Corpus, audio_files
from audioconfit.corpora.sources import Source

SPEAKER = re.compile(r"[FM][A-Z]{3}\d", re.IGNORECASE)
SENTENCE = re.compile(r"S[AIX]\d+", re.IGNORECASE)
REGION = re.compile(r"DR[1-8]", re.IGNORECASE)
SPEAKER_COLUMNS = ("speaker_id", "speaker", "label")


def parse(folder: Path) -> Corpus | None:
    """TIMIT from TRAIN|TEST/DR<n>/<SPEAKER>/<SENTENCE>.WAV anywhere below `folder`, or from a Parquet copy.

    A Parquet copy that lost the sentences' names keeps its own split.
    """
    found: dict[tuple[str, str], Clip] = {}
    for clip in _native(folder):
        found.setdefault((clip.label, clip.name), clip)  # copies that hold SA1.WAV beside SA1.WAV.wav
    clips = [found[key] for key in sorted(found)] or list(_copied(folder))
    if not clips:
        return None
    protocol = "sentences" if all(clip.name for clip in clips) else "given"
    return Corpus("timit", tuple(clips), protocol=protocol)


def is_recording(path: Path) -> bool:
    """Whether a file lies as one of TIMIT does: DR<n>/<SPEAKER>/<SENTENCE>.WAV."""
    region, speaker = path.parent.parent.name, path.parent.name
    return bool(REGION.fullmatch(region) and SPEAKER.fullmatch(speaker) and SENTENCE.fullmatch(path.name.split(".")[0]))


def tree_below(folder: Path) -> Path | None:
    """The folder at or below `folder` that holds TRAIN and TEST, or the one of them that is there."""
    for above, folders, _ in os.walk(folder):
        folders.sort()
        if REGION.fullmatch(Path(above).name) and any(SPEAKER.fullmatch(name) for name in folders):
            return Path(above).parent.parent
    return None


def _native(folder: Path) -> Iterator[Clip]:
    for path in audio_files(folder):
        sentence, speaker = path.name.split(".")[0].upper(), path.parent.name.upper()
        if SENTENCE.fullmatch(sentence) and SPEAKER.fullmatch(speaker):
            yield Clip(path.relative_to(folder).as_posix(), path, (speaker,), name=sentence)


def _copied(folder: Path) -> Iterator[Clip]:
    for row in parquet.rows(folder):
        words = Path(str(row.values.get("file") or row.values.get("path") or row.file_name)).parts
        speaker = next((str(row.values[name]) for name in SPEAKER_COLUMNS if row.values.get(name) is not None), None)
        speaker = speaker or next((word for word in words if SPEAKER.fullmatch(word)), None)
        sentence = row.file_name.split(".")[0].upper()
        if speaker is not None:
            name = sentence if SENTENCE.fullmatch(sentence) else ""
            yield Clip(row.key, row.path, (speaker.upper(),), split=row.split, row=row.number, name=name)


SOURCE = Source(
    name="timit",
    title="TIMIT",
    task="speaker identification",
    clip_count=6300,
    class_count=630,
    seconds=(5 * 60 + 22) * 60,
    licence="LDC user agreement",
    homepage="https://catalog.ldc.upenn.edu/LDC93S1",
    layout="TRAIN/DR1/FCJF0/SA1.WAV ...",
    folders=(
        *("timit", "ldc93s1", "lisa/data/timit", "data/lisa/data/timit"),
        "darpa-timit-acousticphonetic-continuous-speech",  # as Kaggle packs it
    ),
    parse=parse,
    download=None,
    how="LDC's licensed copy is needed, its TRAIN and TEST folders in a folder timit",
)
