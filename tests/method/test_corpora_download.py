"""Downloads from a server of our own that breaks off, changes its mind and lies."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_names import touch

from audioconfit.corpora import CORPORA, download
from audioconfit.corpora.sources import Archive, Hub


@dataclass
class Server:
    """Files by their address, and how badly they are served."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: int = 0  # that many answers end halfway
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # address, Range
    codes: list[int] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server on this machine; the hub is there too."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """One file, from where the client wants it."""
            path, wanted = self.path.split("?")[0], self.headers.get("Range")
            served.requests.append((path, wanted))
            body = served.files.get(path)
            if served.codes or body is None:
                self._answer(served.codes.pop(0) if served.codes else 404, b"")
                return
            etag = '"' + hashlib.md5(body).hexdigest() + '"'
            first = int(wanted.split("=")[1].rstrip("-")) if wanted and self.headers.get("If-Range") == etag else 0
            if first >= len(body) > 0:
                self._answer(416, b"")
                return
            self._answer(206 if first else 200, body[first:], etag)

        def do_HEAD(self) -> None:
            """Nothing."""
            self._answer(404, b"")

        def _answer(self, code: int, body: bytes, etag: str = "") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if etag:
                self.send_header("ETag", etag)
            if path_is_listing(self.path):
                self.send_header("Content-Type", "application/json")
            self.end_headers()
            if served.breaks and len(body) > 10:
                served.breaks -= 1
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Server(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    yield served
    http.shutdown()
    http.server_close()


def path_is_listing(path: str) -> bool:
    return path.startswith("/api/")


def zipped(names: list[str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, b"audio" * 2_000)
    return packed.getvalue()


@pytest.fixture
def emodb(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Serve these bytes as EmoDB's archive, with their checksum unless another is stated."""

    def serve(content: bytes, name: str = "emodb.zip", sha256: str | None = None) -> Server:
        server.files[f"/{name}"] = content
        stated = sha256 or hashlib.sha256(content).hexdigest()
        archive = Archive(f"{server.address}/{name}", len(content), stated)
        monkeypatch.setitem(CORPORA, "emodb", replace(CORPORA["emodb"], download=archive))
        return server

    return serve


def test_an_archive_is_fetched_unpacked_and_nothing_else_is_left(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    emodb(zipped(["wav/03a01Fa.wav", "wav/16b10Wb.wav"]))
    told: list[tuple[int, int]] = []
    folder = download.fetch("emodb", tmp_path, progress=lambda done, total: told.append((done, total)))
    assert folder == tmp_path / "emodb"
    assert [path.name for path in tmp_path.iterdir()] == ["emodb"]
    corpus = CORPORA["emodb"].find(tmp_path)
    assert corpus is not None
    assert len(corpus.clips) == 2
    assert told[-1][0] == told[-1][1] > 0


def test_what_is_there_is_not_fetched_again(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    server = emodb(zipped(["wav/03a01Fa.wav"]))
    touch(tmp_path, ["EmoDB/wav/03a01Fa.wav"])
    assert download.fetch("emodb", tmp_path) == tmp_path / "EmoDB"
    assert not server.requests


def test_a_broken_connection_goes_on_where_it_broke(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    content = zipped(["wav/03a01Fa.wav"])
    server = emodb(content)
    server.breaks = 2
    download.fetch("emodb", tmp_path)
    half = len(content) // 2
    three_quarters = half + (len(content) - half) // 2
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={half}-", f"bytes={three_quarters}-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    server = emodb(zipped(["wav/03a01Fa.wav"]))
    server.breaks = 4
    with pytest.raises(ConnectionError, match=r"failed 4 times.*The same command goes on where it broke off"):
        download.fetch("emodb", tmp_path)
    assert CORPORA["emodb"].find(tmp_path) is None
    there = (tmp_path / ".emodb.partial" / "emodb.zip.part").stat().st_size
    server.requests.clear()
    download.fetch("emodb", tmp_path)
    assert server.requests == [("/emodb.zip", f"bytes={there}-")]


def test_a_file_that_changed_on_the_server_is_fetched_from_its_start(
    tmp_path: Path, emodb: Callable[..., Server]
) -> None:
    server = emodb(zipped(["wav/03a01Fa.wav"]))
    server.breaks = 4
    with pytest.raises(ConnectionError):
        download.fetch("emodb", tmp_path)
    emodb(zipped(["wav/16b10Wb.wav", "wav/16b10Wa.wav"]))
    download.fetch("emodb", tmp_path)
    assert len(list((tmp_path / "emodb" / "wav").iterdir())) == 2


def test_a_server_in_trouble_is_asked_again_and_a_missing_file_is_not(
    tmp_path: Path, emodb: Callable[..., Server]
) -> None:
    server = emodb(zipped(["wav/03a01Fa.wav"]))
    server.codes = [503, 429]
    download.fetch("emodb", tmp_path)
    server.files.clear()
    with pytest.raises(ConnectionError, match="answers 404"):
        download.fetch("emodb", tmp_path / "other")


def test_a_wrong_checksum_is_refused_and_the_file_removed(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    emodb(zipped(["wav/03a01Fa.wav"]), sha256="0" * 64)
    with pytest.raises(ValueError, match="expected 0000"):
        download.fetch("emodb", tmp_path)
    assert not list((tmp_path / ".emodb.partial").glob("*.part"))


@pytest.mark.parametrize("name", ["../outside.wav", "/etc/outside.wav", "wav/../../outside.wav", "..\\outside.wav"])
def test_a_zip_member_that_leaves_the_folder_is_refused(
    tmp_path: Path, emodb: Callable[..., Server], name: str
) -> None:
    emodb(zipped(["wav/03a01Fa.wav", name]))
    with pytest.raises(ValueError, match="outside its folder"):
        download.fetch("emodb", tmp_path / "data")
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("kind", ["path", "link", "device"])
def test_a_tar_member_that_leaves_the_folder_is_refused(
    tmp_path: Path, emodb: Callable[..., Server], kind: str
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("../outside.wav" if kind == "path" else "wav/x")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../../outside"
        elif kind == "device":
            member.type = tarfile.CHRTYPE
        archive.addfile(member, io.BytesIO())
    emodb(packed.getvalue(), "emodb.tar.gz")
    with pytest.raises(ValueError, match=r"outside|unsafe"):
        download.fetch("emodb", tmp_path / "data")
    assert not list(tmp_path.rglob("*.wav"))


def test_an_archive_that_is_none_or_holds_something_else_is_refused(
    tmp_path: Path, emodb: Callable[..., Server]
) -> None:
    emodb(b"<html>Not found</html>" * 10)
    with pytest.raises(ValueError, match="broken or unsafe"):
        download.fetch("emodb", tmp_path / "one")
    emodb(zipped(["readme.txt"]))
    with pytest.raises(ValueError, match="does not hold EmoDB"):
        download.fetch("emodb", tmp_path / "one")
    emodb(zipped(["wav/03a01Fa.wav"]))
    download.fetch("emodb", tmp_path / "one")  # neither is taken for the archive again


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    emodb(zipped(["wav/03a01Fa.wav"]))
    touch(tmp_path, ["emodb/thesis.txt"])
    with pytest.raises(ValueError, match="exists and does not hold EmoDB"):
        download.fetch("emodb", tmp_path)


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path, emodb: Callable[..., Server]) -> None:
    server = emodb(zipped(["wav/03a01Fa.wav"]))
    huge = replace(CORPORA["emodb"].download, size=10**16)  # type: ignore[type-var]
    CORPORA["emodb"] = replace(CORPORA["emodb"], download=huge)
    with pytest.raises(ValueError, match="GB free; this download takes"):
        download.fetch("emodb", tmp_path)
    assert not server.requests


def test_timit_says_that_it_must_be_brought(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TIMIT cannot be downloaded: LDC"):
        download.fetch("timit", tmp_path)
    with pytest.raises(ValueError, match="Unknown corpus 'timmit'"):
        download.fetch("timmit", tmp_path)


# --- the hub ------------------------------------------------------------------------------------------------------


def on_the_hub(server: Server, repository: str, files: dict[str, bytes]) -> None:
    """Serve a data set as the hub does: a listing with checksums, and the files."""
    tree = []
    for path, content in files.items():
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"oid": sha256, "size": len(content), "pointerSize": 130}
        tree.append({"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs})
        server.files[f"/datasets/{repository}/resolve/main/{path}"] = content
    server.files[f"/api/datasets/{repository}/tree/main"] = json.dumps(tree).encode()


def mswc_parquet(keyword: str) -> bytes:
    memory = io.BytesIO()
    audio = pa.array([{"bytes": bytes(5_000), "path": "a.opus"}])
    pq.write_table(pa.table({"audio": audio, "keyword": [keyword]}), memory)
    return memory.getvalue()


def test_parquet_comes_from_the_hub_with_its_checksums(tmp_path: Path, server: Server) -> None:
    files = {
        f"spanish/{split}-00000-of-00001.parquet": mswc_parquet("agua") for split in ("train", "validation", "test")
    }
    on_the_hub(server, "confit/mswc-parquet", files | {"indian/train-00000-of-00001.parquet": b"", "README.md": b"x"})
    server.breaks = 2
    told: list[tuple[int, int]] = []
    download.fetch("mswc-spanish", tmp_path, progress=lambda done, total: told.append((done, total)))
    corpus = CORPORA["mswc-spanish"].find(tmp_path)
    assert corpus is not None
    assert [clip.split for clip in corpus.clips] == ["test", "train", "valid"]
    total = sum(map(len, files.values()))
    assert told[-1] == (total, total)


def test_a_hub_file_with_a_wrong_checksum_is_refused(tmp_path: Path, server: Server) -> None:
    name = "indian/train-00000-of-00001.parquet"
    on_the_hub(server, "confit/mswc-parquet", {name: mswc_parquet("agua")})
    server.files[f"/datasets/confit/mswc-parquet/resolve/main/{name}"] = b"something else"
    with pytest.raises(ValueError, match="arrived with sha256"):
        download.fetch("mswc-indonesian", tmp_path)


def test_a_hub_without_the_data_set_or_its_files_is_said(tmp_path: Path, server: Server) -> None:
    with pytest.raises(ConnectionError, match=r"datasets/confit/mswc-parquet/tree/main.* answers 404"):
        download.fetch("mswc-spanish", tmp_path)
    on_the_hub(server, "confit/mswc-parquet", {"german/train.parquet": b"x"})
    with pytest.raises(ValueError, match=r"no file like spanish/.*it has german/train\.parquet"):
        download.fetch("mswc-spanish", tmp_path)


def test_a_hub_path_that_leaves_the_folder_is_refused(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = replace(CORPORA["emodb"], download=Hub("x/evil", ("*.parquet",), 100))
    monkeypatch.setitem(CORPORA, "emodb", evil)
    on_the_hub(server, "x/evil", {"../outside.parquet": b"x"})
    with pytest.raises(ValueError, match="outside its folder"):
        download.fetch("emodb", tmp_path / "data")
