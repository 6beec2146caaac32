"""Your own data: folders, manifests, Hugging Face data sets on disk, and what is said when they are wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_names import touch

from audioconfit import corpora
from audioconfit.corpora import Corpus


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Corpus]:
    """Write `text` as a manifest beside the files a.wav to h.wav and load it."""
    touch(tmp_path, [f"{letter}.wav" for letter in "abcdefgh"])

    def written(text: str, name: str = "birds.csv") -> Corpus:
        (tmp_path / name).write_text(text)
        return corpora.load(str(tmp_path / name), tmp_path)

    return written


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path / "birds", ["crow/1.wav", "crow/deep/2.FLAC", "wren/1.mp3", "wren/.hidden.wav", "wren/notes.txt"])
    corpus = corpora.load(str(tmp_path / "birds"), tmp_path)
    assert corpus.counts == {"crow": 2, "wren": 1}
    assert [clip.key for clip in corpus.clips] == ["crow/1.wav", "crow/deep/2.FLAC", "wren/1.mp3"]
    assert corpora.load("birds", tmp_path) == corpus  # by its name below the data folder


def test_folders_called_after_splits_give_the_split(tmp_path: Path) -> None:
    touch(tmp_path, [f"{side}/{bird}/1.wav" for side in ("train", "dev", "test") for bird in ("crow", "wren")])
    corpus = corpora.load(str(tmp_path), tmp_path)
    assert corpus.classes == ("crow", "wren")
    assert {clip.key: clip.split for clip in corpus.clips}["dev/crow/1.wav"] == "valid"
    assert corpus.protocol == "given"


def test_files_outside_the_class_folders_are_mentioned(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "wren/1.wav", "stray.wav"])
    assert "1 audio files lie outside" in corpora.load(str(tmp_path), tmp_path).notes[0]


def test_a_single_class_is_refused_by_name(tmp_path: Path) -> None:
    """Also what happens when the folder of a known corpus is given as one's own."""
    touch(tmp_path / "emodb", ["wav/03a01Fa.wav", "wav/03a01Wa.wav"])
    with pytest.raises(ValueError, match="a single class, 'wav'"):
        corpora.load(str(tmp_path / "emodb"), tmp_path)


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["1.wav", "2.wav"])
    with pytest.raises(ValueError, match="no class folders"):
        corpora.load(str(tmp_path), tmp_path)


def test_a_manifest_names_paths_and_labels(manifest: Callable[..., Corpus]) -> None:
    corpus = manifest("path,label,split,group\na.wav,crow,train,one\nb.wav,wren,dev,two\n")
    assert corpus.name == "birds"
    assert [(c.key, c.label, c.split, c.group) for c in corpus.clips] == [
        ("a.wav", "crow", "train", "one"),
        ("b.wav", "wren", "valid", "two"),
    ]


def test_tsv_parquet_and_other_words_for_columns_are_the_same_manifest(
    tmp_path: Path, manifest: Callable[..., Corpus]
) -> None:
    one = manifest("path,label\na.wav,crow\nb.wav,wren\n").clips
    assert (
        manifest(
            "\ufeffFile Name\tLabel\n".replace("File Name", "file_name") + "a.wav\tcrow\nb.wav\twren\n", "b.tsv"
        ).clips
        == one
    )
    pq.write_table(pa.table({"filename": ["a.wav", "b.wav"], "category": ["crow", "wren"]}), tmp_path / "m.parquet")
    assert corpora.load(str(tmp_path / "m.parquet"), tmp_path).clips == one


def test_a_metadata_table_beside_the_files_is_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "birds", ["a.wav", "b.wav"])
    (tmp_path / "birds" / "metadata.csv").write_text("file_name,label\na.wav,crow\nb.wav,wren\n")
    corpus = corpora.load("birds", tmp_path)
    assert (corpus.name, corpus.classes) == ("birds", ("crow", "wren"))


def test_a_bar_separates_the_labels_of_a_clip(manifest: Callable[..., Corpus]) -> None:
    corpus = manifest("path,label\na.wav,crow|wren\nb.wav,wren\n")
    assert corpus.multi_label
    assert corpus.clips[0].labels == ("crow", "wren")


def test_stretches_of_one_recording_share_a_group(manifest: Callable[..., Corpus]) -> None:
    corpus = manifest("path,label,start,end\na.wav,crow,0,1.5\na.wav,wren,1.5,\nb.wav,crow,,\n")
    assert [(c.key, c.start, c.end, c.group) for c in corpus.clips] == [
        ("a.wav#0-1.5", 0.0, 1.5, "a.wav"),
        ("a.wav#1.5-", 1.5, None, "a.wav"),
        ("b.wav", None, None, None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\na.wav,crow\n", "no column 'label'; it has path, kind"),
        ("", "no column 'path'; it has no columns"),
        ("path,label\na.wav,crow\nx.wav,crow\ny.wav,wren\n", r"names 2 files that are not there: .*x\.wav"),
        ("path,label\na.wav,\n", r"line 2: no label for a\.wav"),
        ("path,label\n,crow\n", "line 2: no path"),
        ("path,label,split\na.wav,crow,trian\n", "line 2: unknown split 'trian'; choose one of train, valid, test"),
        ("path,label,split\na.wav,crow,train\nb.wav,wren,\n", r"a split for 1 of 2 clips; b\.wav has none"),
        ("path,label,start,end\na.wav,crow,2,1\n", "line 2: end 1.0 s does not lie after start 2.0 s"),
        ("path,label,start\na.wav,crow,soon\n", "line 2: start is 'soon', not a number of seconds"),
        ("path,label,start\na.wav,crow,nan\n", "start is 'nan'"),
        ("path,label\na.wav,crow\na.wav,wren\n", r"1 clips more than once, the first is a\.wav"),
        ("path,label\n", "holds no clips"),
    ],
)
def test_a_faulty_manifest_is_refused_by_line(manifest: Callable[..., Corpus], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest(text)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff\xfe,\n")
    with pytest.raises(ValueError, match="no UTF-8 table"):
        corpora.load(str(tmp_path / "m.csv"), tmp_path)
    (tmp_path / "m.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="no readable parquet file"):
        corpora.load(str(tmp_path / "m.parquet"), tmp_path)


def test_a_saved_dataset_is_read_without_its_library(tmp_path: Path) -> None:
    features = {"label": {"names": ["crow", "wren"], "_type": "ClassLabel"}}
    for split in ("train", "test"):
        folder = tmp_path / "birds" / split
        folder.mkdir(parents=True)
        audio = pa.array([{"bytes": b"RIFF", "path": "1.wav"}, {"bytes": b"RIFF", "path": "2.wav"}])
        table = pa.table({"audio": audio, "label": [0, 1], "speaker_id": ["s1", split]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (tmp_path / "birds" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    corpus = corpora.load("birds", tmp_path)
    assert [(c.split, c.label, c.group) for c in corpus.clips] == [
        ("train", "crow", "s1"),
        ("train", "wren", "train"),
        ("test", "crow", "s1"),
        ("test", "wren", "test"),
    ]


def test_parquet_with_audio_and_only_a_train_file_has_no_split_yet(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": b"RIFF", "path": None}] * 2)
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"audio": audio, "labels": [["crow", "wren"], ["wren"]]}), path)
    corpus = corpora.load(str(tmp_path), tmp_path)
    assert corpus.multi_label
    assert corpus.protocol == "random"
    assert corpora.load(str(path), tmp_path).clips[0].labels == ("crow", "wren")


def test_parquet_with_audio_but_no_label_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": pa.array([{"bytes": b"", "path": None}]), "mood": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no label column.*it has mood"):
        corpora.load(str(tmp_path), tmp_path)


def test_a_path_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder or manifest"):
        corpora.load(str(tmp_path / "nowhere.csv"), tmp_path)
    touch(tmp_path, ["a.wav"])
    with pytest.raises(ValueError, match=r"neither a folder .* nor a manifest"):
        corpora.load(str(tmp_path / "a.wav"), tmp_path)
