"""Faults that are no trial's: the user's Ctrl-C, storage that is full, unusable or not shared. Every other trial would
meet them too, so they end the sweep, and the next start goes on with it. (slots/blame.py tells them from the others.)
"""

import errno
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from audioconfit import files
from audioconfit.errors import InputError

SMALL_BYTES = 64 * 2**20  # of a database that is read whole at each start: a tenth of a second
LEAST_ROOM_BYTES = 2**20  # an empty file can be made on a full disk, too

# SQLite and safetensors only put it into words, and so does Ray when it raises another process' error.
WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "(os error 28)")
# What a folder answers that cannot be used: by number with the name of a file of ours, or in the words of others.
BROKEN = (errno.EROFS, errno.EIO, errno.ESTALE)
UNUSABLE = (*BROKEN, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
UNUSABLE_WORDS = (
    *map(os.strerror, (*BROKEN, errno.EACCES, errno.ENOTDIR)),
    "readonly database",
    "unable to open database file",
    "disk I/O error",
)


# A table that Alembic, which MLflow and Optuna change theirs with, drops when the change is made.
BROKEN_OFF = r"SELECT 1 FROM sqlite_master WHERE name LIKE '\_alembic\_tmp\_%' ESCAPE '\'"
PASSWORD = re.compile(r"(://[^/\s:@]*:)[^\s@]*@")  # in the URL of a database or a server


class Interrupted(Exception):  # noqa: N818  (what happened, not what kind of thing it is)
    """The user pressed Ctrl-C; everything that ran goes on at the next start."""


class Halted(Exception):  # noqa: N818
    """The sweep cannot go on here and now. The message says why and the way out; the next start goes on."""


class Unusable(Halted):
    """The storage cannot be used on one node, as far as that node can tell: another may see it and write to it."""


def masked(text: str) -> str:
    """The text without passwords of URLs, for whatever is printed or kept."""
    return PASSWORD.sub(r"\1***@", text)


def check_database(path: Path, storage: Path) -> None:
    """InputError where an SQLite database is damaged. One that is not there, or is empty, is made anew.

    Of a large one only the length is compared with what its header says, which costs nothing and finds what was cut.
    """
    if (why := damage(path, whole=path.exists() and path.stat().st_size <= SMALL_BYTES)) is not None:
        raise InputError(
            f"The database {path} is damaged ({why}). python sweeps/check.py {storage} --repair makes it anew from the "
            "journal and the results; then run the same command again."
        )


@contextmanager
def alone_with(url: str) -> Iterator[None]:
    """One process at a time opens an SQLite database: where two make its tables, MLflow and Optuna crash."""
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.parent.is_dir():
        yield
        return
    with files.locked(path.with_name(f".{path.name}.lock")):
        if not path.exists() or not path.stat().st_size:
            for left in beside(path):  # by a database that is gone: SQLite would apply it to the new one
                left.unlink(missing_ok=True)
        yield


def beside(database: Path) -> list[Path]:
    """What SQLite may keep beside a database."""
    return [database.with_name(f"{database.name}{end}") for end in ("-journal", "-wal", "-shm")]


def damage(database: Path, *, whole: bool) -> str | None:
    """What is wrong with an SQLite database; None: nothing, or there is none."""
    if not database.exists() or not database.stat().st_size:
        return None
    size, address = database.stat().st_size, f"file:{quote(str(database.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=60.0)) as connection:
            pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            if pages * page > size and not database.with_name(f"{database.name}-wal").exists():
                return f"{size} bytes of {pages * page}"
            if connection.execute(BROKEN_OFF).fetchone():
                return "a change of its tables was broken off"
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if whole else "ok"
    except sqlite3.OperationalError:
        return None  # locked, or not to be read: another fault, which its user will meet
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else str(found).splitlines()[-1]


def is_full(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is about missing room."""
    return _full(error) is not None


def _full(error: BaseException) -> BaseException | None:
    """The first of the error and those that it came from that is about missing room."""
    for cause in _causes(error):
        if (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)) or says_full(str(cause)):
            return cause
    return None


def says_full(text: str) -> bool:
    """Whether an error's text is about missing room."""
    return any(words in text for words in WORDS)


@contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Any error in the block that is about missing room becomes Halted, and one about files below these folders that
    cannot be written or read Unusable, with the way out.
    """
    try:
        yield
    except Exception as error:
        why = None if isinstance(error, Halted) else trouble(error, *folders)
        if why is None:
            raise
        raise (Halted if is_full(error) else Unusable)(why) from error


def trouble(error: BaseException, *folders: Path) -> str | None:
    """What to tell the user where an error is the storage's; None: it is not."""
    if is_full(error):
        return make_room(folders[0], error)
    if isinstance(error, InputError):
        return None  # it has its own sentence
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            if cause.filename is None:
                found = cause.errno in BROKEN
            else:
                named = Path(os.fsdecode(cause.filename)).absolute()
                found = cause.errno in UNUSABLE and any(named.is_relative_to(one.absolute()) for one in folders)
        else:
            found = any(words in str(cause) for words in UNUSABLE_WORDS)
        if found:
            return _unusable(cause, folders[0])
    return None


def _unusable(error: BaseException, folder: Path) -> str:
    return (
        f"The storage cannot be used on {socket.gethostname()} ({str(error).strip().splitlines()[0][:300]}). See that "
        f"all in {folder} can be read and written there by the user who runs the sweep, then run the same command "
        "again: all that was reached is kept."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def make_room(folder: Path, error: BaseException | str) -> str:
    """What to tell the user: where it is full, and the way out."""
    why = str(_full(error) or error) if isinstance(error, BaseException) else error
    line = next((line for line in why.splitlines() if says_full(line)), why.strip().splitlines()[-1])
    free = shutil.disk_usage(folder).free / 1024**2
    return (
        f"No room left ({line[:300]}). {folder} has {free:.0f} MB free. Make room there, "
        "or find what else is full on that machine, then run the same command again: all that was reached is kept."
    )


def not_shared(folder: Path, nodes: str) -> str:
    """What to tell the user: which nodes do not see the folder, and the way out."""
    return (
        f"{folder} is not the same folder on {nodes}. With several nodes, recordings and storage must lie where all of "
        "them look (NFS, EFS, ...). Name such folders with --data and --storage, or with AUDIOCONFIT_DATA and "
        "AUDIOCONFIT_STORAGE on every node, then run the same command again."
    )


def check_writable(folder: Path) -> None:
    """InputError where the sweep could not keep its files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        try:
            probe.write_bytes(bytes(LEAST_ROOM_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"--storage: Cannot write to {folder} ({error.strerror}). Choose another folder or make room."
        ) from None
