"""Your own data: folders, manifests, Hugging Face data sets on disk, and what is said when they are wrong."""

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


def test_metadata_in_parquet_lists_recordings_and_another_table_there_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["ann/a.wav", "bob/b.wav"])
    table = pa.table({"file_name": ["ann/a.wav", "bob/b.wav"], "label": ["glad", "sad"]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    assert corpora.load(str(tmp_path), tmp_path).classes == ("glad", "sad")
    (tmp_path / "metadata.parquet").rename(tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"list\.parquet has no column of recordings .* it has file_name, label\."):
        corpora.load(str(tmp_path), tmp_path)
    assert corpora.load(str(tmp_path / "list.parquet"), tmp_path).classes == ("glad", "sad")


def test_a_path_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder or manifest"):
        corpora.load(str(tmp_path / "nowhere.csv"), tmp_path)
    touch(tmp_path, ["a.wav"])
    with pytest.raises(ValueError, match=r"neither a folder .* nor a manifest"):
        corpora.load(str(tmp_path / "a.wav"), tmp_path)


def rows(tmp_path: Path, **columns: list[Any]) -> Corpus:
    """A Parquet file of recordings with these columns."""
    audio = pa.array([{"bytes": b"RIFF", "path": None}] * len(next(iter(columns.values()))))
    pq.write_table(pa.table({"audio": audio, **columns}), tmp_path / "birds.parquet")
    return corpora.load(str(tmp_path / "birds.parquet"), tmp_path)


def test_speaker_zero_is_a_group(tmp_path: Path) -> None:
    found = rows(tmp_path, label=["crow", "wren", "crow"], speaker_id=[0, 1, None])
    assert [clip.group for clip in found.clips] == ["0", "1", None]


@pytest.mark.parametrize("label", [None, "", " ", "nan", "NULL", "None", "N/A"])
def test_a_row_without_a_label_is_named(tmp_path: Path, label: str | None) -> None:
    with pytest.raises(ValueError, match="row 1: no label in the column 'label'"):
        rows(tmp_path, label=["crow", label, "wren"])


def test_a_nan_label_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2: no label"):
        rows(tmp_path, label=[1.0, 2.0, float("nan")])


def test_who_speaks_can_be_what_is_learned(tmp_path: Path, manifest: Callable[..., Corpus]) -> None:
    for found in (
        rows(tmp_path, speaker=["ann", "bob", "ann"]),
        manifest("path,label,speaker\na.wav,ann,ann\nb.wav,bob,bob\nc.wav,ann,ann\n"),
    ):
        assert [clip.label for clip in found.clips] == ["ann", "bob", "ann"]
        assert {clip.group for clip in found.clips} == {None}
        assert "groups are the labels themselves" in found.notes[0]


def test_a_label_with_an_unquoted_comma_is_refused_by_its_line(manifest: Callable[..., Corpus]) -> None:
    with pytest.raises(ValueError, match="line 2: 3 cells, the header has 2"):
        manifest("path,label\na.wav,Dog, barking\nb.wav,Cat\n")
    assert manifest('path,label\na.wav,"Dog, barking"\nb.wav,Cat\n').classes == ("Cat", "Dog, barking")


def test_quotation_marks_in_a_tsv_are_text(manifest: Callable[..., Corpus]) -> None:
    text = 'path\tsentence\tlabel\na.wav\t"Go away\tdog\nb.wav\tplain\tcat\nc.wav\tshe said "no"\tdog\n'
    assert [(clip.key, clip.label) for clip in manifest(text, "v.tsv").clips] == [
        ("a.wav", "dog"),
        ("b.wav", "cat"),
        ("c.wav", "dog"),
    ]


def test_metadata_in_json_lines_names_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, ["spk1/a.wav", "spk2/b.wav"])
    lines = [{"file_name": "spk1/a.wav", "label": "happy"}, {"file_name": "spk2/b.wav", "label": "sad"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert corpora.load(str(tmp_path), tmp_path).classes == ("happy", "sad")


def test_a_linked_class_folder_is_a_class_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    touch(tmp_path, ["birds/crow/1.wav", "birds/wren/1.wav", "elsewhere/1.wav"])
    (tmp_path / "birds" / "owl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "birds" / "wren" / "up").symlink_to(tmp_path / "birds")
    found = corpora.load(str(tmp_path / "birds"), tmp_path)
    assert found.counts == {"crow": 1, "owl": 1, "wren": 1}


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "wren/1.wav"])
    (tmp_path / "owl").symlink_to(tmp_path / "gone")
    (tmp_path / "wren" / "2.wav").symlink_to(tmp_path / "gone.wav")
    assert corpora.load(str(tmp_path), tmp_path).notes == ("2 links lead nowhere: owl, wren/2.wav.",)


def test_labels_that_may_mean_something_else_are_classes_with_a_note(manifest: Callable[..., Corpus]) -> None:
    found = manifest("path,label\na.wav,none\nb.wav,none\nc.wav,\"['crow', 'wren']\"\nd.wav,(unclear) crow\n")
    assert found.counts == {"(unclear) crow": 1, "['crow', 'wren']": 1, "none": 2}
    assert found.notes == (
        "Taken for classes: 'none' (2 clips). Where one of them means that there is no label, leave the cell empty.",
        "Taken for one label each: \"['crow', 'wren']\". Several labels of a clip are separated by '|'.",
    )


def test_a_class_whose_files_are_no_recordings_by_their_suffix_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "crow/notes.txt", "wren/1.WAVE", "owl/1.xyz"])
    found = corpora.load(str(tmp_path), tmp_path)
    assert found.classes == ("crow", "wren")
    assert found.notes == (
        "1 files beside recordings are passed over for their suffix: 1 .txt.",
        "1 folders hold no recording that is known by its suffix: owl (with .xyz).",
    )


def test_the_current_folder_has_the_name_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "birds", ["crow/1.wav", "wren/1.wav"])
    monkeypatch.chdir(tmp_path / "birds")
    assert corpora.load(".", tmp_path).name == "birds"
    monkeypatch.chdir(tmp_path / "birds" / "crow")
    assert corpora.load("..", tmp_path).name == "birds"


def test_a_name_that_models_cannot_have_is_cleaned(tmp_path: Path) -> None:
    touch(tmp_path / "2024:ann's birds", ["crow/1.wav", "wren/1.wav"])
    assert corpora.load(str(tmp_path / "2024:ann's birds"), tmp_path).name == "2024-ann-s birds"


def test_other_spellings_of_a_path_are_one_recording(tmp_path: Path, manifest: Callable[..., Corpus]) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "linked.wav").symlink_to(tmp_path / "a.wav")
    again = f"deep/../a.wav,crow\n{tmp_path / 'a.wav'},crow\nlinked.wav,crow\n"
    found = manifest(f"path,label\na.wav,crow\nb.wav,wren\n{again}")
    assert [clip.key for clip in found.clips] == ["a.wav", "b.wav"]
    assert found.notes[0].startswith(
        "3 lines name a recording again by another path, and are left out: deep/../a.wav is"
    )
    with pytest.raises(ValueError, match=r"names one recording as a\.wav and linked\.wav, and tells them apart"):
        manifest("path,label\na.wav,crow\nb.wav,wren\nlinked.wav,wren\n")


def test_stretches_under_two_spellings_share_a_group(tmp_path: Path, manifest: Callable[..., Corpus]) -> None:
    (tmp_path / "linked.wav").symlink_to(tmp_path / "a.wav")
    found = manifest("path,label,start,end\na.wav,crow,0,1\nlinked.wav,wren,1,2\nb.wav,crow,0,1\n")
    assert [clip.group for clip in found.clips] == ["a.wav", "a.wav", None]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_metadata_table_per_split_names_labels_and_split(tmp_path: Path, suffix: str) -> None:
    lines = {
        "csv": "file_name,label\n{0},happy\n{1},sad\n",
        "jsonl": '{{"file_name": "{0}", "label": "happy"}}\n{{"file_name": "{1}", "label": "sad"}}\n',
    }
    for split in ("train", "test", "validation"):
        touch(tmp_path, [f"{split}/ann/1.wav", f"{split}/bob/2.wav"])
        (tmp_path / split / f"metadata.{suffix}").write_text(lines[suffix].format("ann/1.wav", "bob/2.wav"))
    found = corpora.load(str(tmp_path), tmp_path)
    assert found.classes == ("happy", "sad")
    assert {(clip.key, clip.split) for clip in found.clips} >= {
        ("train/ann/1.wav", "train"),
        ("validation/bob/2.wav", "valid"),
    }
    (tmp_path / "test" / f"metadata.{suffix}").unlink()
    with pytest.raises(ValueError, match=r"test has recordings and no metadata\.csv or metadata\.jsonl"):
        corpora.load(str(tmp_path), tmp_path)


@pytest.mark.parametrize("above", ["", "TIMIT/", "data/lisa/data/timit/raw/TIMIT/"])
def test_timits_own_tree_is_not_taken_for_eight_classes(tmp_path: Path, above: str) -> None:
    names = [f"{side}/DR{region}/FAKE{region}/SX1.WAV" for side in ("TRAIN", "TEST") for region in (1, 2)]
    tree = touch(tmp_path / "corpus" / above, names)
    with pytest.raises(ValueError, match=rf"{tree} looks like TIMIT, whose folders are dialect regions"):
        corpora.load(str(tmp_path / "corpus"), tmp_path)


def test_a_speaker_that_is_nan_is_none_and_bytes_are_text(tmp_path: Path) -> None:
    found = rows(tmp_path, label=[b"crow", b"wren", b"crow"], speaker=["ann", "nan", None])
    assert found.classes == ("crow", "wren")
    assert [clip.group for clip in found.clips] == ["ann", None, None]


def test_an_empty_label_in_a_list_is_none(tmp_path: Path) -> None:
    found = rows(tmp_path, label=[["crow", None], ["wren"], ["crow", "wren"]])
    assert [clip.labels for clip in found.clips] == [("crow",), ("wren",), ("crow", "wren")]


def test_own_data_called_like_a_corpus_is_not_that_corpus(tmp_path: Path) -> None:
    touch(tmp_path / "emodb", ["happy/1.wav", "sad/1.wav"])
    assert corpora.load(str(tmp_path / "emodb"), tmp_path / "data").name == "emodb-own"


def test_a_class_that_links_to_its_sibling_is_there_too(tmp_path: Path) -> None:
    touch(tmp_path, ["crow/1.wav", "wren/1.wav"])
    (tmp_path / "raven").symlink_to(tmp_path / "crow")
    assert corpora.load(str(tmp_path), tmp_path).counts == {"crow": 1, "raven": 1, "wren": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a.wav", "label": "crow"}\n{"file_name": ', "line 2: no JSON"),
        ('["a.wav", "crow"]\n', "line 1: no object"),
    ],
)
def test_a_faulty_line_of_json_is_named(manifest: Callable[..., Corpus], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest(text, "birds.jsonl")
    good = '{"file_name": "a.wav", "label": "crow"}\n\n{"file_name": "b.wav", "label": "wren"}\n'
    assert manifest(good, "birds.jsonl").classes == ("crow", "wren")


# --- tables beside class folders ----------------------------------------------------------------------------------
