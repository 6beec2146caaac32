"""Storage that is full, or that one node alone sees: no recipe is at fault, and other trials would meet it too."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.interrupt import Halted

# SQLite and safetensors say it in words only; so does whatever Ray raises in another process' stead.
WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "(os error 28)")


def is_full(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is about missing room."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if says_full(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def says_full(text: str) -> bool:
    """Whether an error's text is about missing room."""
    return any(words in text for words in WORDS)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Any error in the block that is about missing room becomes Halted, with the way out."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Halted) or not is_full(error):
            raise
        raise Halted(make_room(folder, str(error))) from error


def make_room(folder: Path, why: str) -> str:
    """What to tell the user: where it is full, and the way out."""
    free = shutil.disk_usage(folder).free / 1024**2
    return (
        f"no room left ({why.strip().splitlines()[-1][:300]}). {folder} has {free:.0f} MB free: make room there, "
        "or find what else is full on that machine, then run the same command again; all that was reached is kept"
    )


def not_shared(folder: Path, nodes: str) -> str:
    """What to tell the user: which nodes do not see the folder, and the way out."""
    return (
        f"{folder} is not the same folder on {nodes}: with several nodes, recordings and storage must lie where all of "
        "them look (NFS, EFS, ...); name such folders with --data and --storage, or with AUDIOCONFIT_DATA and "
        "AUDIOCONFIT_STORAGE on every node, then run the same command again"
    )
