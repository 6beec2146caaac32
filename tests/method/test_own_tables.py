"""Tables beside class folders, and what tables hold that may mean something else: taken as meant, or named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_names import touch

from audioconfit import corpora
from audioconfit.corpora import Corpus


@pytest.mark.parametrize("deeper", ["", "data/"])
def test_labels_of_a_splits_table_go_before_the_class_folders(tmp_path: Path, deeper: str) -> None:
    """As in Hugging Face's audio folders, which drop the folders' labels where there is metadata."""
    for split in ("train", "test"):
        touch(tmp_path, [f"{deeper}{split}/crow/1.wav", f"{deeper}{split}/wren/1.wav"])
        table = "file_name,label\ncrow/1.wav,happy\nwren/1.wav,sad\n"
        (tmp_path / deeper / split / "metadata.csv").write_text(table)
    found = corpora.load(str(tmp_path / deeper), tmp_path)
    assert {(clip.label, clip.split) for clip in found.clips} == {
        *(("happy", "train"), ("sad", "train"), ("happy", "test"), ("sad", "test")),
    }
    assert found.notes == ()
    if deeper:
        with pytest.raises(ValueError, match=r"data/test/metadata\.csv names labels, and is not read from"):
            corpora.load(str(tmp_path), tmp_path)


@pytest.mark.parametrize("place", ["metadata.csv", "train/metadata.csv"])
def test_recordings_that_a_metadata_table_does_not_list_are_named(tmp_path: Path, place: str) -> None:
    names = [f"{bird}/{take}.wav" for bird in ("crow", "wren") for take in range(3)]
    folder = touch((tmp_path / place).parent, names)
    (tmp_path / place).write_text("file_name,label\n" + "".join(f"{name},{name[:4]}\n" for name in names[1:]))
    found = corpora.load(str(tmp_path), tmp_path)
    assert len(found.clips) == 5
    assert found.notes == (f"1 recordings are not listed in {folder.name}/metadata.csv and are left out: crow/0.wav.",)


def test_a_table_of_labels_within_a_class_is_refused_and_another_is_a_note(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "crow/2.wav", "wren/1.wav"])
    (tmp_path / "crow" / "metadata.csv").write_text("file_name,recordist\n1.wav,ann\n")
    (note,) = corpora.load(str(tmp_path), tmp_path).notes
    assert note == "1 files beside recordings are passed over for their suffix: 1 .csv."
    (tmp_path / "crow" / "metadata.csv").write_text("file_name,label\n1.wav,sad\n")
    with pytest.raises(ValueError, match=r"crow/metadata\.csv names labels, .* Give its folder as the dataset, or"):
        corpora.load(str(tmp_path), tmp_path)


def test_metadata_without_labels_beside_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["train/crow/1.wav", "train/wren/1.wav"])
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\ncrow/1.wav,kraa\nwren/1.wav,tsip\n")
    with pytest.raises(ValueError, match=r"no column 'label'.*Where the folders are the classes, move the table away"):
        corpora.load(str(tmp_path), tmp_path)


# --- tables that would be misread ---------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["path,label,label", "path,Label,label", "path,class,Class"])
def test_two_columns_of_the_name_that_would_be_taken_are_refused(manifest: Callable[..., Corpus], header: str) -> None:
    with pytest.raises(ValueError, match=r"birds\.csv has 2 columns '(label|class)'; rename all but the one"):
        manifest(f"{header}\na.wav,x,p\nb.wav,y,q\n")


@pytest.mark.parametrize("text", ['a.wav,"crow\nb.wav,wren\nc.wav,crow\n', 'a.wav,"crow\nb.wav,"wren"\nc.wav,crow\n'])
def test_a_quotation_mark_that_is_not_closed_swallows_no_lines(manifest: Callable[..., Corpus], text: str) -> None:
    with pytest.raises(ValueError, match=r"birds\.csv, the line or lines up to \d: .* A quotation mark is not closed"):
        manifest(f"path,label\nd.wav,wren\n{text}")


NAMES = {"names": ["crow", "wren"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    "feature", [{"feature": NAMES, "_type": "Sequence"}, {"feature": NAMES, "_type": "List"}, [NAMES]]
)
def test_ids_in_a_list_have_the_names_of_their_classes(tmp_path: Path, feature: Any) -> None:
    audio = pa.array([{"bytes": b"R", "path": None}] * 3)
    table = pa.table({"label": [[0], [1, 0], [1]], "audio": audio})
    about = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "0.parquet")
    found = corpora.load(str(tmp_path), tmp_path)
    assert [clip.labels for clip in found.clips] == [("crow",), ("wren", "crow"), ("wren",)]


def test_ids_in_a_parquet_manifest_have_the_names_of_their_classes(tmp_path: Path) -> None:
    touch(tmp_path, ["a.wav", "b.wav"])
    about = {"huggingface": json.dumps({"info": {"features": {"label": NAMES}}})}
    table = pa.table({"path": ["a.wav", "b.wav"], "label": [1, 0]}).replace_schema_metadata(about)
    pq.write_table(table, tmp_path / "birds.parquet")
    found = corpora.load(str(tmp_path / "birds.parquet"), tmp_path)
    assert [clip.label for clip in found.clips] == ["wren", "crow"]


def test_minus_one_may_mean_no_label_and_is_noted(manifest: Callable[..., Corpus]) -> None:
    (note,) = manifest("path,label\na.wav,-1\nb.wav,0\nc.wav,1\n").notes
    assert note.startswith("Taken for classes: '-1' (1 clips).")


def test_classes_that_look_alike_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, ["Crow/1.wav", "crow/1.wav", "\u00e9/1.wav", "e\u0301/1.wav", "wren/1.wav"])
    (note,) = corpora.load(str(tmp_path), tmp_path).notes
    assert "'Crow' (1 clips) and 'crow' (1 clips); " in note
    assert "wren" not in note


def test_a_table_beside_class_folders_that_is_not_read_is_noted(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "wren/1.wav", "labels.csv"])
    (note,) = corpora.load(str(tmp_path), tmp_path).notes
    assert note.startswith("labels.csv is not read, the folders are the classes")
