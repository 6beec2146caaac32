"""Columns that a person names: what they decide, what becomes of the known names, what is said of a wrong one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recordings
from stand_in_names import touch

import audioconfit
from audioconfit import audio, corpora
from audioconfit.corpora import Clip, Columns
from audioconfit.errors import InputError

FILES = [f"{letter}.wav" for letter in "abcd"]


def table(folder: Path, text: str, name: str = "m.csv") -> str:
    """A manifest beside four empty recordings; its path."""
    touch(folder, FILES)
    (folder / name).write_text(text)
    return str(folder / name)


def said(clips: tuple[Clip, ...]) -> list[tuple[str, str | None, str | None]]:
    """What of the clips a column can decide."""
    return [(clip.label, clip.group, clip.split) for clip in clips]


def embedded(path: Path, **columns: list[object]) -> str:
    """A Parquet file with recordings beside these columns; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = pa.array([{"bytes": b"RIFF", "path": None}] * len(next(iter(columns.values()))))
    pq.write_table(pa.table({"audio": audio, **columns}), path)
    return str(path)


LINES = [("a.wav", "glad", "s1", "tr"), ("b.wav", "sad", "s1", "dev"), ("c.wav", "glad", "s2", "eval")]
WANTED = [("glad", "s1", "train"), ("sad", "s1", "valid"), ("glad", "s2", "test")]
NAMES = ("path", "Mood", "session", "side")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_named_columns_are_read_in_every_kind_of_manifest(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, FILES)
    path = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(dict(zip(NAMES, zip(*LINES, strict=True), strict=True))), path)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(NAMES, line, strict=True))) for line in LINES))
    else:
        path.write_text("\n".join(("," if suffix == "csv" else "\t").join(line) for line in (NAMES, *LINES)))
    found = audioconfit.load_corpus(path, label_column="mood", group_column="session", split_column="side")
    assert said(found.clips) == WANTED
    assert found.protocol == "given"
    assert found.notes == (
        "As asked, the label is the column 'mood', the group is the column 'session', the split is the column 'side'.",
    )


def test_named_columns_are_read_beside_recordings_in_parquet(tmp_path: Path) -> None:
    _, moods, sessions, sides = zip(*LINES, strict=True)
    columns = {"mood": moods, "label": ["x", "y", "x"], "session": sessions, "speaker": ["p", "q", "r"], "side": sides}
    path = embedded(tmp_path / "data" / "train-00000-of-00001.parquet", **columns)
    named = Columns("mood", "session", "side")
    for place in (path, str(tmp_path)):
        assert said(corpora.load(place, tmp_path, named=named).clips) == WANTED  # not the split of the file's name
    assert said(corpora.load(path, tmp_path).clips) == [("x", "p", None), ("y", "q", None), ("x", "r", None)]


def test_named_columns_are_read_in_a_saved_dataset(tmp_path: Path) -> None:
    features = {"mood": {"names": ["glad", "sad"], "_type": "ClassLabel"}}
    audio = pa.array([{"bytes": b"RIFF", "path": "1.wav"}] * 2)
    saved = pa.table({"audio": audio, "mood": [0, 1]})
    saved = saved.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pa.ipc.new_stream(tmp_path / "data.arrow", saved.schema) as stream:
        stream.write_table(saved)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    with pytest.raises(InputError, match=r"no label column .* beside audio it has mood\. --label-column names it"):
        corpora.load(str(tmp_path), tmp_path)
    assert corpora.load(str(tmp_path), tmp_path, named=Columns("mood")).classes == ("glad", "sad")


def test_a_named_split_goes_before_the_folders_of_metadata(tmp_path: Path) -> None:
    for side, other in (("train", "test"), ("test", "train")):
        text = f"file_name,mood,side\na.wav,glad,{other}\nb.wav,sad,{other}\n"
        table(tmp_path / side, text, name="metadata.csv")
    found = corpora.load(str(tmp_path), tmp_path, named=Columns("mood", split="side"))
    assert {clip.key: clip.split for clip in found.clips}["train/a.wav"] == "test"
    found = corpora.load(str(tmp_path), tmp_path, named=Columns("mood"))
    assert {clip.key: clip.split for clip in found.clips}["train/a.wav"] == "train"


def test_who_speaks_is_learned_where_speaker_is_the_only_column(tmp_path: Path) -> None:
    path = table(tmp_path, "path,speaker\na.wav,ann\nb.wav,bob\n")
    with pytest.raises(InputError, match=r"no column 'label'; it has path, speaker\. --label-column names it"):
        corpora.load(path, tmp_path)
    found = corpora.load(path, tmp_path, named=Columns("speaker"))
    assert said(found.clips) == [("ann", None, None), ("bob", None, None)]


@pytest.mark.parametrize(
    ("last", "groups"), [("bob", [None] * 3), ("ann", ["ann", "bob", "ann"])], ids=["one to one", "not one to one"]
)
def test_another_name_of_the_speaker_is_no_group_of_a_speaker_task(
    tmp_path: Path, last: str, groups: list[str | None]
) -> None:
    path = table(tmp_path, f"path,speaker_id,speaker\na.wav,1,ann\nb.wav,2,bob\nc.wav,2,{last}\n")
    found = corpora.load(path, tmp_path, named=Columns("speaker_id"))
    assert [clip.group for clip in found.clips] == groups


def test_a_group_that_is_asked_for_stays_a_group(tmp_path: Path) -> None:
    path = table(tmp_path, "path,speaker_id,speaker\na.wav,1,ann\nb.wav,2,bob\n")
    found = corpora.load(path, tmp_path, named=Columns("speaker_id", "speaker"))
    assert [clip.group for clip in found.clips] == ["ann", "bob"]


def test_the_column_of_the_paths_can_name_the_group_too(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.wav,crow\nb.wav,wren\n")
    assert [clip.group for clip in corpora.load(path, tmp_path, named=Columns(group="file")).clips] == FILES[:2]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (Columns("mod"), r"m\.csv has no column 'mod' to be the label; it has path, label, mood$"),
        (Columns(group="who"), r"m\.csv has no column 'who' to be the group; it has path, label, mood$"),
        (Columns(split="mood"), r"m\.csv, line 2: unknown split 'glad'; choose one of train, valid, test"),
        (Columns("audio"), "no column 'audio' to be the label"),
    ],
)
def test_a_column_that_cannot_be_meant_is_refused(tmp_path: Path, named: Columns, message: str) -> None:
    path = table(tmp_path, "path,label,mood\na.wav,crow,glad\nb.wav,wren,sad\n")
    with pytest.raises(InputError, match=message.replace("mood$", "mood\\.$")):
        corpora.load(path, tmp_path, named=named)
    inside = embedded(tmp_path / "in.parquet", label=["crow", "wren"], mood=["glad", "sad"])
    with pytest.raises(InputError, match=r"no column|row 0: unknown split 'glad'"):
        corpora.load(inside, tmp_path, named=named)


def test_one_column_cannot_say_two_things() -> None:
    with pytest.raises(InputError, match="'speaker' is named as the label and as the group"):
        Columns("speaker", "speaker")


def test_folders_and_known_corpora_have_no_columns(tmp_path: Path) -> None:
    touch(tmp_path / "birds", ["crow/1.wav", "wren/1.wav"])
    with pytest.raises(InputError, match="birds has no table, so no column 'mood' to be the label"):
        corpora.load("birds", tmp_path, named=Columns("mood"))
    with pytest.raises(InputError, match="has no column to choose as the group, but 'speaker' is named"):
        corpora.load("emodb", tmp_path, named=Columns(group="speaker"))


def test_other_columns_make_another_corpus(tmp_path: Path) -> None:
    """The fingerprint, by which a sweep refuses to go on, knows labels, groups and splits."""
    made = recordings.corpus_of(tmp_path, count=6)
    lines = [
        f"{clip.path},{'xy'[i % 2]},{'pq'[i // 3]},{'rs'[i // 2 % 2]},{('train', 'test')[i % 2]}"
        for i, clip in enumerate(made.clips)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["path,one,two,three,four", *lines]))
    asked = [Columns("one"), Columns("two"), Columns("one", "three"), Columns("one", split="four")]
    found = {
        named: audio.prepare(
            corpora.load(str(tmp_path / "m.csv"), tmp_path, named=named), tmp_path / "kept"
        ).fingerprint
        for named in asked
    }
    assert len(set(found.values())) == len(asked)
