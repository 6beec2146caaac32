"""Files: the one way to write a file or a folder whole. A reader, and whoever comes after a crash, finds the old
content or the new one, and nothing in between. And the one way to have a place for oneself.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


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
