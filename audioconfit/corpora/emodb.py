"""EmoDB (Burkhardt et al. 2005): seven emotions acted by ten speakers.

A file name says everything, `wav/03a01Fa.wav`: speaker 03, text a01, emotion F, take a. Label tables that circulate
beside copies of the corpus are wrong in places, so only the name is read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip, Corpus
from audioconfit.corpora.sources import Archive, Source, first_folder

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
COLUMNS = (("speaker_id", "speaker"), ("emotion", "label"))  # of a Parquet copy
NAME = re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]?", re.IGNORECASE)


def parse(folder: Path) -> Corpus | None:
    """EmoDB from `folder`/wav, `folder` itself, or the public Parquet copy below it."""
    wavs = first_folder(folder, "wav", "")
    assert wavs is not None
    clips = [
        _clip(path.name, path.relative_to(folder).as_posix(), path)
        for path in sorted(wavs.iterdir())
        if path.suffix.lower() == ".wav" and NAME.fullmatch(path.stem)
    ]
    unknown: list[str] = []
    clips = clips or list(_copied(folder, unknown))
    if not clips:
        return None
    first = next(iter(unknown), "")
    notes = (f"{len(unknown)} rows name no speaker or no emotion and are left out, {first} first.",) if unknown else ()
    return Corpus("emodb", tuple(clips), protocol="speaker_independent", notes=notes)


def _copied(folder: Path, unknown: list[str]) -> Iterator[Clip]:
    """Rows by the recordings' names; where a copy lost them, by its columns for speaker and emotion. The keys of rows
    that have neither go to `unknown`.
    """
    seen = set()
    for row in parquet.rows(folder):
        if NAME.fullmatch(Path(row.file_name).stem):
            if row.file_name not in seen:  # a copy may hold the corpus once per fold
                yield _clip(row.file_name, row.key, row.path, row.number)
            seen.add(row.file_name)
            continue
        speaker, emotion = (
            next((row.values[n] for n in names if row.values.get(n) is not None), None) for names in COLUMNS
        )
        label = next((name for name in EMOTIONS.values() if name in str(emotion).lower()), None)
        if label is not None and (number := _number(speaker)) is not None:
            yield Clip(row.key, row.path, (label,), group=f"{number:02d}", row=row.number)
        else:
            unknown.append(row.key)


def _number(speaker: object) -> int | None:
    """The number of a speaker as a table writes it: 3, 3.0, "03"; None where it is no number."""
    try:
        return int(float(str(speaker)))
    except (ValueError, OverflowError):
        return None


def _clip(file_name: str, key: str, path: Path, row: int | None = None) -> Clip:
    name = Path(file_name).stem
    match = NAME.fullmatch(name)
    assert match is not None
    emotion = EMOTIONS[match["emotion"].upper()]
    return Clip(key, path, (emotion,), group=match["speaker"], row=row, name=name)


SOURCE = Source(
    name="emodb",
    title="EmoDB",
    task="emotion recognition",
    clip_count=535,
    class_count=7,
    seconds=24 * 60,
    licence="free for research, no licence text",
    homepage="http://emodb.bilderbar.info",
    layout="wav/03a01Fa.wav ...",
    folders=("emodb", "emo-db", "emo_db", "berlin", "emodb-parquet"),
    parse=parse,
    download=Archive("http://emodb.bilderbar.info/download/download.zip", size=41_000_000),
    how="emodb.bilderbar.info, its download.zip unpacked",
)
