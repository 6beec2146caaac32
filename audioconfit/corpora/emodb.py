"""EmoDB (Burkhardt et al. 2005): seven emotions acted by ten speakers.

A file name says everything, `wav/03a01Fa.wav`: speaker 03, text a01, emotion F, take a. Label tables that circulate
beside copies of the corpus are wrong in places, so only the name is read.
"""

import re
from pathlib import Path

from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip, Corpus
from audioconfit.corpora.sources import Hub, Source, first_folder

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
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
    clips = clips or [
        _clip(row.file_name, row.key, row.path, row.number)
        for row in parquet.rows(folder)
        if NAME.fullmatch(Path(row.file_name).stem)
    ]
    if not clips:
        return None
    return Corpus("emodb", tuple(clips), protocol="speaker_independent")


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
    download=Hub("confit/emodb-parquet", ("**/*.parquet", "*.parquet"), 50_000_000),
    how="emodb.bilderbar.info, its download.zip unpacked",
)
