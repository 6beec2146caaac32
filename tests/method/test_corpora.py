"""Known corpora from every layout they are found in, with the counts of the paper's Table 1."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stand_in_names as names

from audioconfit import corpora, splits
from audioconfit.corpora import CORPORA, Clip, Corpus, gtzan
from audioconfit.errors import InputError

REAL = Path(os.environ.get("AUDIOCONFIT_DATA", "data"))


def sizes(split: splits.Split) -> tuple[int, int, int]:
    return len(split.train), len(split.valid), len(split.test)


def per_class(clips: tuple[Clip, ...]) -> list[int]:
    counts = Counter(clip.label for clip in clips)
    return [counts[label] for label in sorted(counts)]


def columns_parquet(path: Path, columns: dict[str, list], features: dict | None = None) -> None:
    """A Parquet file whose `audio` column is Hugging Face's struct around the given paths."""
    audio = pa.array([{"bytes": b"", "path": name} for name in columns.pop("audio")])
    table = pa.table({**columns, "audio": audio})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


# --- Table 1 ------------------------------------------------------------------------------------------------------


def test_timit_has_6300_clips_of_630_speakers_and_six_two_two_sentences(tmp_path: Path) -> None:
    names.timit(tmp_path)
    corpus = corpora.load("timit", tmp_path)
    assert (len(corpus.clips), len(corpus.classes)) == (6300, 630)
    split = splits.split(corpus)
    assert sizes(split) == (3780, 1260, 1260)
    assert set(per_class(split.test)) == set(per_class(split.valid)) == {2}
    assert {clip.name for clip in split.test} == {"SX279", "SX369"}
    assert {clip.name for clip in split.valid} == {"SX99", "SX189"}


def test_gtzan_has_930_of_1000_clips_and_the_published_counts_per_genre(tmp_path: Path) -> None:
    names.gtzan_files(tmp_path)
    corpus = corpora.load("gtzan", tmp_path)
    assert (len(corpus.clips), len(corpus.classes)) == (930, 10)
    assert corpus.notes == ("70 files with faults are left out (Sturm 2013).",)
    split = splits.split(corpus)
    assert sizes(split) == (443, 197, 290)
    assert per_class(split.train) == [46, 48, 45, 42, 47, 43, 44, 41, 43, 44]
    assert per_class(split.valid) == [23, 20, 23, 22, 18, 17, 20, 13, 17, 24]
    assert per_class(split.test) == [31, 31, 30, 29, 27, 27, 27, 30, 26, 32]


def test_gtzan_lists_are_torchaudios() -> None:
    from torchaudio.datasets import gtzan as published

    for split in ("train", "valid", "test"):
        ours = {name for name, side in gtzan.fault_filtered().items() if side == split}
        assert ours == set(getattr(published, f"filtered_{split}"))


def test_esc50_has_2000_clips_and_five_folds(tmp_path: Path) -> None:
    names.esc50(tmp_path)
    corpus = corpora.load("esc50", tmp_path)
    assert (len(corpus.clips), len(corpus.classes)) == (2000, 50)
    assert splits.fold_count(corpus) == 5
    tested = Counter(clip.key for fold in range(5) for clip in splits.split(corpus, fold=fold).test)
    assert len(tested) == 2000
    assert set(tested.values()) == {1}
    assert sizes(splits.split(corpus, fold=3)) == (1200, 400, 400)
    assert set(per_class(splits.split(corpus).valid)) == {8}


def test_esc50s_official_folds_stand_and_the_sources_in_two_of_them_are_named(tmp_path: Path) -> None:
    names.esc50(tmp_path)
    (note,) = corpora.load("esc50", tmp_path).notes
    assert "131943 (2, 3), 134049 (2, 3), 209698 (4, 5), 234879 (4, 5)" in note
    assert "--protocol source_disjoint_folds" in note


def test_esc50s_other_folds_share_no_source_and_test_every_clip_once(tmp_path: Path) -> None:
    names.esc50(tmp_path)
    corpus = corpora.load("esc50", tmp_path)
    made = [splits.split(corpus, protocol="source_disjoint_folds", fold=fold) for fold in range(5)]
    for split in made:
        sides = [{clip.group for clip in side} for side in (split.train, split.valid, split.test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert Counter(clip.key for split in made for clip in split.test) == Counter(clip.key for clip in corpus.clips)
    assert [len(split.test) for split in made] == [400, 404, 396, 404, 396]  # of each shared source, two clips move


@pytest.mark.parametrize(
    ("name", "language", "clips", "classes"),
    [("mswc-spanish", "es", 11759, 146), ("mswc-indonesian", "id", 739, 14)],
)
def test_mswc_follows_its_own_lists(tmp_path: Path, name: str, language: str, clips: int, classes: int) -> None:
    names.mswc(tmp_path, name, language, clips, classes)
    corpus = corpora.load(name, tmp_path)
    assert (len(corpus.clips), len(corpus.classes)) == (clips, classes)
    split = splits.split(corpus)
    assert sum(sizes(split)) == clips
    assert {clip.split for clip in split.test} == {"test"}
    assert all(clip.label == clip.path.parent.name for clip in split.valid)


def test_emodb_has_535_clips_and_304_of_them_by_the_training_speakers(tmp_path: Path) -> None:
    names.emodb(tmp_path)
    check_emodb(corpora.load("emodb", tmp_path))


@pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason="the recordings are not here")
def test_the_real_emodb_has_the_published_counts() -> None:
    check_emodb(corpora.load("emodb", REAL))


def check_emodb(corpus: Corpus) -> None:
    assert list(corpus.counts.items()) == [
        *(("anger", 127), ("boredom", 81), ("disgust", 46), ("fear", 69)),
        *(("happiness", 71), ("neutral", 79), ("sadness", 62)),
    ]
    split = splits.split(corpus)
    assert len(split.train) + len(split.valid) == 304
    assert len(split.test) == 231
    assert {clip.group for clip in split.test} == {"12", "14", "15", "16"}
    assert {clip.group for clip in split.valid} == {"11"}
    assert set(split.classes) == {clip.label for clip in split.valid}
    assert splits.fold_count(corpus, "leave_one_speaker_out") == 10


# --- other layouts of the same corpora ----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["emodb/wav", "EmoDB/WAV", "emo-db", "berlin/wav"])
def test_emodb_is_found_under_its_usual_names(tmp_path: Path, folder: str) -> None:
    names.touch(tmp_path / folder, ["03a01Fa.wav", "16b10Wb.wav", "notes.txt", "._03a01Fa.wav"])
    corpus = corpora.load("emodb", tmp_path, allow_incomplete=True)
    assert [(clip.label, clip.group) for clip in corpus.clips] == [("happiness", "03"), ("anger", "16")]


def test_emodb_from_parquet_reads_the_recordings_names(tmp_path: Path) -> None:
    path = tmp_path / "emodb" / "data" / "train-00000-of-00001.parquet"
    columns_parquet(path, {"audio": ["03a01Fa.wav", "16b10Wb.wav"], "emotion": ["wrong", "wrong"]})
    first, second = corpora.load("emodb", tmp_path, allow_incomplete=True).clips
    assert (first.label, first.group, first.row) == ("happiness", "03", 0)
    assert second.key == "data/train-00000-of-00001.parquet#1"


def test_emodb_from_parquet_without_names_reads_its_columns(tmp_path: Path) -> None:
    features = {"emotion": {"names": ["anxiety/fear", "anger"], "_type": "ClassLabel"}}
    columns = {"audio": [None, None], "emotion": [1, 0], "speaker_id": ["3", "16"]}
    columns_parquet(tmp_path / "emodb" / "test.parquet", columns, features)
    first, second = corpora.load("emodb", tmp_path, allow_incomplete=True).clips
    assert (first.label, first.group) == ("anger", "03")
    assert (second.label, second.group) == ("fear", "16")


def test_gtzan_takes_au_files_and_counts_a_recording_once(tmp_path: Path) -> None:
    names.touch(tmp_path / "gtzan" / "genres_original" / "blues", ["blues.00029.au", "blues.00029.wav"])
    (clip,) = corpora.load("gtzan", tmp_path, allow_incomplete=True).clips
    assert (clip.label, clip.split, clip.name) == ("blues", "train", "blues.00029")


def test_gtzan_from_parquet(tmp_path: Path) -> None:
    files = ["/x/genres/blues/blues.00029.wav", "/x/genres/jazz/jazz.00000.wav"]
    columns_parquet(tmp_path / "gtzan" / "train.parquet", {"audio": [None, None], "file": files, "genre": [0, 5]})
    first, second = corpora.load("gtzan", tmp_path, allow_incomplete=True).clips
    assert (first.label, first.split, second.label) == ("blues", "train", "jazz")


def test_esc50_from_parquet_reads_fold_and_source_from_the_name(tmp_path: Path) -> None:
    columns = {"audio": ["3-100032-A-0.wav"], "category": ["dog"], "fold": [3]}
    columns_parquet(tmp_path / "esc50" / "data" / "train-00000-of-00001.parquet", columns)
    (clip,) = corpora.load("esc50", tmp_path, allow_incomplete=True).clips
    assert (clip.label, clip.fold, clip.group) == ("dog", 3, "100032")


def test_mswc_from_parquet_takes_the_split_from_the_files_names(tmp_path: Path) -> None:
    features = {"keyword": {"names": ["agua", "noche"], "_type": "ClassLabel"}}
    for split, keyword in (("train", 1), ("validation", 0), ("test", 0)):
        path = tmp_path / "mswc-parquet" / "spanish" / f"{split}-00000-of-00001.parquet"
        columns_parquet(path, {"audio": ["a.opus"], "keyword": [keyword], "file": ["a.opus"]}, features)
    clips = corpora.load("mswc-spanish", tmp_path, allow_incomplete=True).clips
    assert {(clip.split, clip.label) for clip in clips} == {("train", "noche"), ("valid", "agua"), ("test", "agua")}


@pytest.mark.parametrize("table", ["es_train.csv", "train.csv", "train.tsv", "train.txt"])
def test_mswc_reads_one_list_per_split_and_finds_converted_files(tmp_path: Path, table: str) -> None:
    root = names.touch(tmp_path / "mswc" / "es", ["clips/agua/one.wav", "clips/agua/unlisted.wav"])
    head = {"csv": "LINK,WORD\nagua/one.opus,agua\n", "tsv": "link\tword\nagua/one.opus\tagua\n"}
    (root / table).write_text(head.get(table[-3:], "agua/one.opus\n"))
    (clip,) = corpora.load("mswc-spanish", tmp_path, allow_incomplete=True).clips
    assert (clip.label, clip.split, clip.key) == ("agua", "train", "clips/agua/one.wav")


def test_timit_takes_converted_copies_and_counts_a_sentence_once(tmp_path: Path) -> None:
    names.touch(
        tmp_path / "timit" / "data" / "train" / "dr1" / "fcjf0", ["sa1.wav", "SA1.WAV.wav", "SX37.flac", "SA1.TXT"]
    )
    clips = corpora.load("timit", tmp_path, allow_incomplete=True).clips
    assert [(clip.label, clip.name) for clip in clips] == [("FCJF0", "SA1"), ("FCJF0", "SX37")]


def test_timit_from_parquet_without_sentence_names_keeps_its_split(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        path = tmp_path / "timit" / f"{split}-00000-of-00001.parquet"
        columns_parquet(path, {"audio": [None, None], "speaker_id": ["FCJF0", "MDAB0"]})
    corpus = corpora.load("timit", tmp_path, allow_incomplete=True)
    assert corpus.protocol == "given"
    assert sizes(splits.split(corpus)) == (2, 2, 2)


@pytest.mark.parametrize(
    "folder",
    [
        *("TIMIT/TIMIT", "timit/timit", "timit/data/lisa/data/timit/raw/TIMIT", "data/lisa/data/timit/raw/TIMIT"),
        *("lisa/data/timit/raw/TIMIT", "darpa-timit-acousticphonetic-continuous-speech/data"),
    ],
)
def test_timit_is_found_above_its_tree(tmp_path: Path, folder: str) -> None:
    names.touch(tmp_path / folder, ["TRAIN/DR1/FCJF0/SA1.WAV", "test/dr1/fake0/sx1.wav"])
    clips = corpora.load("timit", tmp_path, allow_incomplete=True).clips
    assert [(clip.label, clip.name) for clip in clips] == [("FAKE0", "SX1"), ("FCJF0", "SA1")]


@pytest.mark.parametrize("folder", ["", "speech/TIMIT"])
def test_timit_that_lies_elsewhere_is_pointed_at(tmp_path: Path, folder: str) -> None:
    tree = names.touch(tmp_path / folder, ["TRAIN/DR1/FCJF0/SA1.WAV"])
    with pytest.raises(InputError, match=rf"^TIMIT is not there: .* Its folders seem to lie in {tree}: move or link"):
        corpora.load("timit", tmp_path)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_unknown_corpus_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'emodbb'.*emodb, esc50, gtzan, mswc-indonesian, mswc-spanish, timit"):
        corpora.load("emodbb", tmp_path)


def test_a_missing_corpus_says_where_it_was_looked_for_and_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/esc-50-master.*github.com/karolpiczak/ESC-50"):
        corpora.load("esc50", tmp_path)


def test_an_incomplete_corpus_is_refused_unless_allowed(tmp_path: Path) -> None:
    root = names.esc50(tmp_path)
    for path in sorted((root / "audio").iterdir())[414:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"414 of 2000 clips.*--allow-incomplete"):
        corpora.load("esc50", tmp_path)
    assert len(corpora.load("esc50", tmp_path, allow_incomplete=True).clips) == 414


def test_a_corpus_without_one_of_its_classes_is_incomplete(tmp_path: Path) -> None:
    shutil.rmtree(names.gtzan_files(tmp_path) / "genres" / "pop")
    with pytest.raises(ValueError, match="9 of 10 classes"):
        corpora.load("gtzan", tmp_path)


def test_one_corrupt_gtzan_file_is_not_an_incomplete_corpus(tmp_path: Path) -> None:
    (names.gtzan_files(tmp_path) / "genres" / "jazz" / "jazz.00054.wav").unlink()
    assert len(splits.split(corpora.load("gtzan", tmp_path)).train) == 442


def test_a_corpus_lists_a_clip_once(tmp_path: Path) -> None:
    clip = Clip("a.wav", tmp_path / "a.wav", ("x",))
    with pytest.raises(ValueError, match=r"1 clips more than once, the first is a\.wav"):
        Corpus("own", (clip, clip))


def test_facts_add_up_to_table_1() -> None:
    table = {name: (source.clip_count, source.class_count) for name, source in CORPORA.items()}
    assert table == {
        "timit": (6300, 630),
        "gtzan": (930, 10),
        "esc50": (2000, 50),
        "mswc-spanish": (11759, 146),
        "mswc-indonesian": (739, 14),
        "emodb": (535, 7),
    }


def test_mswc_clips_on_two_sides_do_not_train_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    root = names.touch(tmp_path / "mswc" / "es", [f"clips/agua/{take}.wav" for take in range(4)])
    lines = ["TRAIN,agua/0.wav,agua", "", "TRAIN,agua/1.wav,agua", "TEST,agua/1.wav,agua", "DEV,agua/2.wav,agua"]
    (root / "es_splits.csv").write_text("\n".join(["", "SET,LINK,WORD", *lines, "TRAIN,agua/2.wav,agua", ""]))
    corpus = corpora.load("mswc-spanish", tmp_path, allow_incomplete=True)
    assert [(clip.path.stem, clip.split) for clip in corpus.clips] == [("0", "train"), ("1", "test"), ("2", "valid")]
    assert corpus.notes == ("2 clips are listed on several sides and kept on the last of them: agua/1, agua/2.",)


def test_emodb_rows_without_a_speaker_are_passed_over(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": b"RIFF", "path": None}] * 4)
    (tmp_path / "emodb").mkdir()
    table = {"audio": audio, "speaker": ["03", "nan", "8.0", "ann"], "emotion": ["anger", "fear", "sadness", "joy"]}
    pq.write_table(pa.table(table), tmp_path / "emodb" / "0.parquet")
    corpus = corpora.load("emodb", tmp_path, allow_incomplete=True)
    assert [clip.group for clip in corpus.clips] == ["03", "08"]
    assert corpus.notes == ("2 rows name no speaker or no emotion and are left out, 0.parquet#1 first.",)


def test_a_corpus_beside_the_data_folder_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emodb").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"There is a folder emodb where you are: .* with --data \."):
        corpora.load("emodb", tmp_path / "data")
    with pytest.raises(InputError, match=r"^TIMIT is not there(?!.*where you are)"):
        corpora.load("timit", tmp_path / "data")
