"""Data sets of the hub by their id, from a hub of our own: what is fetched, what a commit is, what is refused."""

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recordings
from hub_server import Hub, Repository
from stand_in_names import touch

from audioconfit import audio, corpora
from audioconfit.corpora import Columns, Corpus
from audioconfit.errors import InputError

TABLE = b"file_name,mood,side\na.wav,glad,train\nb.wav,sad,train\nc.WAV,glad,test\nd.wav,sad,validation\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server.serving(monkeypatch) as served:
        yield served


def waves(folder: Path, names: str = "abcd") -> dict[str, bytes]:
    """Recordings of 0.1 s by their name, c.WAV among them."""
    made = recordings.corpus_of(folder, count=len(names))
    files = (f"{name}.WAV" if name == "c" else f"{name}.wav" for name in names)
    return dict(zip(files, (clip.path.read_bytes() for clip in made.clips), strict=True))


@pytest.fixture
def moods(hub: Hub, tmp_path: Path) -> Repository:
    """org/moods: an audio folder with its metadata, and what is no part of it."""
    files = {"README.md": b"# Moods", "metadata.csv": TABLE, "weights.bin": b"0", **waves(tmp_path / "made")}
    hub.repositories["org/moods"] = Repository()
    hub.repositories["org/moods"].commit(files)
    return hub.repositories["org/moods"]


def load(tmp_path: Path, name: str = "org/moods") -> Corpus:
    return corpora.load(name, tmp_path / "data", named=Columns("mood", split="side"))


def test_an_audio_folder_is_fetched_without_what_is_no_part_of_it(tmp_path: Path, moods: Repository) -> None:
    found = load(tmp_path)
    (commit,) = moods.commits
    assert (found.name, found.revision, found.protocol) == ("org-moods", commit, "given")
    assert [(clip.key, clip.label, clip.split) for clip in found.clips] == [
        ("a.wav", "glad", "train"),
        ("b.wav", "sad", "train"),
        ("c.WAV", "glad", "test"),
        ("d.wav", "sad", "valid"),
    ]
    folder = tmp_path / "data" / "hub" / "org--moods" / commit
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert there == {"metadata.csv", "a.wav", "b.wav", "c.WAV", "d.wav"}
    assert found.notes[0] == f"org/moods of the Hugging Face hub, commit {commit}."


def test_parquet_below_data_is_read_with_the_splits_of_its_files(tmp_path: Path, hub: Hub) -> None:
    files = {}
    for split in ("train", "test"):
        sounds = pa.array([{"bytes": b"RIFF", "path": "1.wav"}, {"bytes": b"RIFF", "path": "2.wav"}])
        pq.write_table(pa.table({"audio": sounds, "label": ["crow", "wren"]}), packed := io.BytesIO())
        files[f"data/{split}-00000-of-00001.parquet"] = packed.getvalue()
    hub.repositories["org/birds"] = Repository()
    commit = hub.repositories["org/birds"].commit(files, revision="refs/convert/parquet")
    found = corpora.load("org/birds@refs/convert/parquet", tmp_path)
    assert found.revision == commit
    assert [(clip.label, clip.split) for clip in found.clips] == [
        *(("crow", "test"), ("wren", "test")),
        *(("crow", "train"), ("wren", "train")),
    ]


def test_the_only_folder_of_a_repository_is_where_it_begins(tmp_path: Path, hub: Hub) -> None:
    hub.repositories["org/birds"] = Repository()
    hub.repositories["org/birds"].commit(
        {f"data/{split}/{bird}/1.wav": b"" for split in ("train", "test") for bird in ("crow", "wren")}
    )
    assert corpora.load("org/birds", tmp_path).counts == {"crow": 2, "wren": 2}


def test_a_commit_that_is_here_is_not_asked_for(tmp_path: Path, hub: Hub, moods: Repository) -> None:
    first = load(tmp_path)
    hub.requests.clear()
    assert load(tmp_path, f"org/moods@{first.revision}") == first
    assert not hub.requests
    load(tmp_path)
    assert hub.asked() == ["moods"]  # which commit it is, and nothing else


def test_a_branch_is_another_corpus_once_it_has_another_commit(tmp_path: Path, hub: Hub, moods: Repository) -> None:
    """Even with the same recordings and labels: what else a commit changed nobody has looked at."""
    first = load(tmp_path)
    (files,) = moods.commits.values()
    second = moods.commit(files)
    moods.revisions["v1"] = first.revision or ""
    assert load(tmp_path).revision == second
    assert load(tmp_path, "org/moods@v1") == first
    prints = []
    for name in ("org/moods@v1", "org/moods", "org/moods@v1"):
        prepared = audio.prepare(load(tmp_path, name), tmp_path / "prepared")
        assert prepared.corpus.revision == load(tmp_path, name).revision
        prints.append(prepared.fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_a_folder_of_that_name_goes_first(
    tmp_path: Path, hub: Hub, moods: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "org" / "moods", ["crow/1.wav", "wren/1.wav"])
    monkeypatch.chdir(tmp_path)
    assert corpora.load("org/moods", tmp_path / "data").classes == ("crow", "wren")
    monkeypatch.chdir("/")
    assert corpora.load("org/moods", tmp_path).classes == ("crow", "wren")  # below the data folder
    assert not hub.requests


def test_a_gated_data_set_says_where_its_terms_are_and_comes_with_a_token(
    tmp_path: Path, hub: Hub, moods: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    moods.gated = True
    with pytest.raises(
        InputError, match=f"gated: accept its terms at {hub.address}/datasets/org/moods, and set HF_TOKEN"
    ):
        load(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert len(load(tmp_path).clips) == 4
    assert hub.tokens == {None, "Bearer hf_mine"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/nothing", r"no folder org/nothing here, and .* no such data set at .*/datasets/org/nothing\. .*HF_TOKEN"),
        ("org/moods@v9", r"org/moods has no revision 'v9'; see .*/datasets/org/moods/tree/main"),
        ("org/a--b", r"did not give it \(.*a--b"),
        ("some/where/deep", r"no folder or manifest some/where/deep"),
        ("org/table.csv", r"no folder or manifest org/table\.csv"),
        ("moods", "Unknown corpus 'moods'.* or a hub id, org/name"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(tmp_path: Path, hub: Hub, moods: Repository, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corpora.load(name, tmp_path)
    assert not (tmp_path / "hub").exists()


def test_without_a_network_what_is_here_is_named(
    tmp_path: Path, hub: Hub, moods: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(InputError, match=f"needs no network: org/moods@{first.revision}"):
            load(tmp_path)
        with pytest.raises(
            InputError,
            match=r"no folder org/birds here, and the hub did not give it .*Without a network, bring its files",
        ):
            corpora.load("org/birds", tmp_path)
        assert load(tmp_path, f"org/moods@{first.revision}").clips == first.clips


def test_an_answer_that_is_not_the_hubs_is_no_data_set(tmp_path: Path, hub: Hub, moods: Repository) -> None:
    hub.failing = True
    with pytest.raises(InputError, match="the hub did not give it"):
        load(tmp_path)


def test_a_broken_connection_goes_on_where_it_broke(
    tmp_path: Path, hub: Hub, moods: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # written at a time; else 10 MB
    hub.breaks = 1
    found = load(tmp_path)
    assert [wanted for _, _, wanted in hub.requests if wanted] == ["bytes=1000-"]  # half of 3244 bytes had come
    (files,) = moods.commits.values()
    assert all(clip.path.read_bytes() == files[clip.key] for clip in found.clips)


def test_what_is_not_all_here_is_asked_for_again(tmp_path: Path, hub: Hub, moods: Repository) -> None:
    (commit,) = moods.commits
    load(tmp_path)
    folder = tmp_path / "data" / "hub" / "org--moods" / commit
    (folder / ".complete").unlink()  # as a kill leaves it
    (folder / "a.wav").unlink()
    hub.requests.clear()
    load(tmp_path, f"org/moods@{commit}")
    assert [name for name in hub.asked() if name.lower().endswith(".wav")] == ["a.wav"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md", "a.zip"], r"neither recordings nor .* has README\.md, a\.zip.*org/odd@refs/convert/parquet"),
        (["en/train.parquet", "fr/train.parquet"], r"several parts, en, fr, .*--include 'en/\*'"),
        (["ann/1.wav", "bob/1.wav", "labels.csv"], r"has tables, labels\.csv, and none of them is a metadata\.csv"),
        (["ann/1.wav", "bob/1.wav", "ann/metadata.csv"], r"has tables, ann/metadata\.csv, and none of them"),
        (["ann/1.wav", "bob/1.wav", "bob/metadata.parquet"], r"has tables, bob/metadata\.parquet, and none of them"),
    ],
    ids=["no recordings", "several parts", "another table", "a table of a part", "a Parquet table of a part"],
)  # fmt: skip
def test_what_cannot_be_read_as_one_data_set_is_refused(
    tmp_path: Path, hub: Hub, names: list[str], message: str
) -> None:
    hub.repositories["org/odd"] = Repository()
    hub.repositories["org/odd"].commit(dict.fromkeys(names, b"-"))
    with pytest.raises(InputError, match=message):
        corpora.load("org/odd", tmp_path)
