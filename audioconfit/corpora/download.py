"""Fetch a corpus that is free to fetch: resumed where it broke off, checked, unpacked beside its place, then renamed.

download.fetch("esc50", data, progress=lambda done, total: ...)      # bytes

Pooch does not do this: its HTTP downloader opens the file anew ("w+b") and sends no Range, so it cannot resume.
"""

import hashlib
import json
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from audioconfit.corpora import CORPORA
from audioconfit.corpora.sources import Archive, Hub, Source
from audioconfit.errors import InputError
from audioconfit.files import locked

Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]  # bytes there, bytes in all
HUB = "https://huggingface.co"
ATTEMPTS = 4
PAUSE_SECONDS = 1.0  # before the second attempt, 3 and 7 times as long before the next ones
TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A file to fetch, and what is known of it."""

    url: str
    path: Path
    size: int
    sha256: str | None


def fetch(name: str, data: Path, *, progress: Progress | None = None) -> Path:
    """Bring corpus `name` into its folder below `data`; the folder. Does nothing if the corpus is there.

    InputError: an unknown corpus, one that cannot be fetched, a checksum that differs, an archive whose members would
    leave its folder, no room on the disk. ConnectionError: the network failed several times; the next call goes on.
    """
    if name not in CORPORA:
        raise InputError(f"Unknown corpus {name!r}; choose one of {', '.join(sorted(CORPORA))}.")
    source = CORPORA[name]
    if source.download is None:
        raise InputError(f"{source.title} cannot be downloaded: {source.how}: {data / source.folders[0]}.")
    there = source.find(data)
    if there is not None and there.folder is not None:
        return there.folder
    place = data / source.folders[0]
    if place.exists() and any(place.iterdir()):
        raise InputError(f"{place} exists and does not hold {source.title}; move it away or fill it by hand.")
    unfinished = data / f".{source.name}.partial"
    unfinished.mkdir(parents=True, exist_ok=True)
    with locked(unfinished / "lock"):
        if source.find(data) is None:
            _fetch(source, source.download, unfinished, place, progress or (lambda done, total: None))
    shutil.rmtree(unfinished, ignore_errors=True)
    return place


def _fetch(source: Source, remote: Archive | Hub, unfinished: Path, place: Path, progress: Progress) -> None:
    content = unfinished / "content"
    if isinstance(remote, Archive):
        url = remote.url.replace(HUB, _hub(), 1)
        archive = Remote(url, unfinished / url.rsplit("/", 1)[1], remote.size, remote.sha256)
        _check_room(unfinished, 3 * remote.size)
        _fetch_all([archive], progress)
        shutil.rmtree(content, ignore_errors=True)  # an unpacking that was killed
        try:
            unpack(archive.path, content)
        finally:
            archive.path.unlink()  # unpacked it is not needed, broken it must not be taken for the archive again
    else:
        files = _listed(remote, content)
        _check_room(unfinished, sum(file.size for file in files))
        _fetch_all(files, progress)
    if source.parse(content) is None:
        raise InputError(f"What came from {remote} does not hold {source.title} as {source.layout}; see {content}.")
    if place.exists():
        place.rmdir()
    content.replace(place)


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def _listed(hub: Hub, folder: Path) -> list[Remote]:
    """The repository's files that match, with the sizes and checksums that the hub states.

    The hub's plain HTTP interface: its client library would ask more than this and check no checksum.
    """
    address = f"{_hub()}/api/datasets/{hub.repository}/tree/main?recursive=true"
    tree = json.loads(_patiently(address, lambda: _read(address)))
    files = {item["path"]: item for item in tree if item["type"] == "file"}
    matching = [path for path in files if any(fnmatch(path, pattern) for pattern in hub.patterns)]
    if not matching:
        shown = ", ".join(list(files)[:10])
        raise InputError(f"Data set {hub.repository} has no file like {' or '.join(hub.patterns)}; it has {shown}.")
    for path in matching:
        _check_inside(path)
    start = f"{_hub()}/datasets/{hub.repository}/resolve/main"
    return [
        Remote(f"{start}/{quote(path)}", folder / path, files[path]["size"], files[path].get("lfs", {}).get("oid"))
        for path in matching
    ]


def _read(address: str) -> bytes:
    with _open(address, {}) as answer:
        return answer.read()


def _patiently(address: str, ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns, asked again while the network or the server is in trouble."""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * (2**attempt - 1))
        try:
            return ask()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise ConnectionError(f"{address} answers {error.code} {error.reason}.") from error
            failure: Exception = error
        except (OSError, HTTPException) as error:
            failure = error
    raise ConnectionError(
        f"{address} failed {ATTEMPTS} times ({failure}). The same command goes on where it broke off."
    ) from failure


def _open(address: str, headers: dict[str, str]) -> HTTPResponse:
    request = urllib.request.Request(address, headers={"User-Agent": "audioconfit", **headers})
    response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response


# --- one file -----------------------------------------------------------------------------------------------------


def _fetch_all(files: Sequence[Remote], progress: Progress) -> None:
    total, before = sum(file.size for file in files), 0
    for file in files:
        _fetch_file(file, partial(_tell, progress, before, total))
        before += file.path.stat().st_size


def _tell(progress: Progress, before: int, total: int, done: int, size: int) -> None:
    progress(before + done, max(total, before + size))


def _fetch_file(file: Remote, progress: Progress) -> None:
    """The file, from where an earlier call broke off; each failure of the network is tried again."""
    if file.path.exists():
        return
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = file.path.with_name(f"{file.path.name}.part")
    _patiently(file.url, lambda: _stream(file, part, progress))
    if file.sha256 is not None:
        found = _sha256(part)
        if found != file.sha256:
            part.unlink()
            raise InputError(f"{file.url} arrived with sha256 {found}, expected {file.sha256}; it was removed.")
    part.replace(file.path)


def _stream(file: Remote, part: Path, progress: Progress) -> None:
    """Append to `part` what it lacks. A server whose file changed meanwhile sends it whole, and part starts over."""
    validator = part.with_name(f"{part.name}.etag")
    there = part.stat().st_size if part.exists() else 0
    known = there > 0 and validator.exists()
    try:
        response = _open(file.url, {"Range": f"bytes={there}-", "If-Range": validator.read_text()} if known else {})
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or it is longer than the file: the checksum or a new start tells
            error.close()
            _start_over(file, part)
            return
        raise
    with response:
        resumed = response.status == 206
        there = there if resumed else 0
        etag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if etag and not etag.startswith("W/"):
            validator.write_text(etag)
        length = response.headers.get("Content-Length")
        total = there + int(length) if length else max(file.size, there)
        with part.open("ab" if resumed else "wb") as out:
            while block := response.read(BLOCK_BYTES):
                out.write(block)
                there += len(block)
                progress(there, max(total, there))
    if length and there < total:
        raise ConnectionError(f"the connection ended after {there} of {total} bytes")
    validator.unlink(missing_ok=True)


def _start_over(file: Remote, part: Path) -> None:
    if file.sha256 is not None and _sha256(part) == file.sha256:
        return
    part.unlink()
    raise ConnectionError("the server has no more bytes than are there, which are not the file's")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder} has {free / 1e9:.1f} GB free; this download takes {needed / 1e9:.1f} GB.")


# --- archives -----------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into `folder`. InputError if a member would land outside, or the archive is broken."""
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    _check_inside(name)
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter=_inside)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{archive.name} is broken or unsafe: {error}") from error


def _check_inside(name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"The archive's member {name!r} would be written outside its folder; nothing was kept.")


def _inside(member: tarfile.TarInfo, folder: str | Path) -> tarfile.TarInfo | None:
    _check_inside(member.name)
    return tarfile.data_filter(member, str(folder))  # refuses links and devices that lead outside
