"""Errors: the one class for what is refused on purpose, and how a command ends.

What the machine refuses, as a name that is too long or a folder that may not be entered, is told in its words. Whatever
else is raised is a bug of ours: it keeps its traceback and is never shown as the user's mistake.
"""

import errno
import io
import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

REFUSED, BUG = 2, 1  # exit codes
# What no code of ours could have asked otherwise: of a name, and of the disk below it.
OF_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
SHOWN = 200  # characters of a file's name


class InputError(ValueError):
    """The input is refused. The message says what is wrong, with the value and the way out; one line per problem."""


class Damaged(InputError):  # noqa: N818  (what happened, not what kind of thing it is)
    """Something that was stored is not what it was. Whoever meets it must not go on with it."""


def guard(command: Callable[[], int]) -> int:
    """The command's exit code: its own, 2 where the input or the machine refuses, 1 where a bug ended it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no Unicode text, and is printed
    try:
        return command()
    except Exception as error:
        if (refusal := _refusal(error)) is not None:
            show(refusal)
            return REFUSED
        traceback.print_exc()
        print(
            "This is a bug in AudioConFit and not your mistake. Please report it, with the command and the lines "
            "above, to the issue tracker of the repository that you installed from.",
            file=sys.stderr,
        )
        return BUG


def _refusal(error: Exception) -> InputError | None:
    """What the input or the machine refuses; None: a bug."""
    if isinstance(error, InputError):
        return error
    if not isinstance(error, OSError):
        return None
    name = str(error.filename2 or error.filename or "")[:SHOWN]
    said = f"{error.strerror}: {name}." if name else f"{error.strerror}."
    if error.errno in OF_DISKS:
        return InputError(f"{said} Make room, or mend what is wrong there, then run the same command again.")
    return InputError(f"{said} Name another, or make this one usable.") if name and error.errno in OF_NAMES else None


def show(error: Exception) -> None:
    """The message on standard error, without a traceback."""
    console = Console(stderr=True)
    for line in str(error).splitlines():
        console.print(f"[red]error:[/red] {escape(line)}", soft_wrap=True, highlight=False)
