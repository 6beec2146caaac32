"""Files: the one way to write a file or a folder whole. A reader, and whoever comes after a crash, finds the old
content or the new one, and nothing in between. And the one way to have a place for oneself.
"""

import errno
import json
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from audioconfit.errors import InputError

NO_SUCH = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
SUMS = "sums.json"  # size and checksum of each file of its folder


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder. A name that no folder can have names none, which pathlib takes for an error.

    Raises:
        PermissionError: it may not be looked at.
    """
    found = _stat(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: str | Path) -> bool:
    """Whether there is such a file, likewise."""
    found = _stat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in NO_SUCH:
            raise
        return None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or to fill a folder under; when the block ends it is renamed to `path`.

    The content is on the disk before it is renamed, and readable by whoever may read its folder. A file replaces the
    one before it. A folder does not: of two writers the first one's stays. Where the block raises, nothing is left of
    it; a killed process leaves a name that begins with a dot. Missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the suffix last: some writers choose a format by it
    _remove(temporary)
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                _flush(file)
        _rename(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time is in the block for the lock `path`; the next one waits. The lock ends with its process."""
    with FileLock(path):
        yield


def write(path: Path, text: str) -> None:
    """A whole text file, UTF-8."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InputError: the file is damaged, or holds something else; `way_out`: a sentence that says what to do then.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). {way_out}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged (it holds no object). {way_out}")
    return found


def seal(folder: Path, *names: str) -> None:
    """Notes size and checksum of the named files in the folder, or of all, for `damaged`."""
    here = names or [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    noted = {name: _sum(folder / name) for name in here if name != SUMS}
    write(folder / SUMS, json.dumps((_sums(folder) if names else {}) | noted, indent=2))


def damaged(folder: Path) -> list[str]:
    """The names of sealed files that are gone or are not what they were; reads each once."""
    return [name for name, noted in _sums(folder).items() if _sum(folder / name) != noted]


def _sums(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / SUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _sum(path: Path) -> list[int]:
    """Size and CRC-32: 1 GB/s, and against accidents, not against people."""
    size = total = 0
    if os.path.isfile(path):  # unlike path.is_file() also where a damaged list has a name that no file can have
        with path.open("rb") as file:
            while block := file.read(2**22):
                size, total = size + len(block), zlib.crc32(block, total)
    return [size, total]


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError:
        if not (source.is_dir() and target.is_dir()):
            raise


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes for writers only
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
