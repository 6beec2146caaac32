"""Sweep the grid: `python sweeps/grid.py --datasets all`, or `--demo` to see it work without data, network or GPU.

plan -> prepare -> search -> confirm -> select -> register -> report. The same command with the same --name goes on
where it stopped.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from rich.console import Console

from audioconfit import errors
from sweeps import faults, interrupt
from sweeps.faults import Halted, Interrupted
from sweeps.request import flags


def main(arguments: Sequence[str] | None = None, *, ahead: bool = False) -> int:
    """The exit code: 0 done, 1 something is missing (a cell's result, a champion that MLflow did not take; or a bug), 2
    the request cannot be met, 130, 143 and 129 ended by Ctrl-C, SIGTERM and SIGHUP.

    `ahead`: the slots of a new sweep start while torch and MLflow are imported and the data is prepared; the process
    then ends by `end`.
    """
    return errors.guard(lambda: _start(arguments, Console(), ahead=ahead))


def _start(arguments: Sequence[str] | None, console: Console, *, ahead: bool) -> int:
    try:
        plan = flags.parse(arguments)
        # Seconds of Ray, and then of torch and MLflow, which --help and a typing error do without.
        from sweeps.request import head_start

        with interrupt.raised(), head_start.slots(plan, ends_with_process=ahead) as slots:
            if ahead and head_start.may_begin(plan):
                slots.warm_up(head_start.job_count(plan))
            from sweeps import sweep

            return sweep.start(plan, console, slots=slots, leave=_leave)
    except Halted as error:
        errors.show(error)
        return errors.REFUSED
    except (Interrupted, KeyboardInterrupt):
        show_interrupted(arguments, console)
        return interrupt.exit_code()


def show_interrupted(arguments: Sequence[str] | None, console: Console) -> None:
    """How to go on. Imports nothing: an import may be what was interrupted, and torch's cannot be begun twice."""
    command = shlex.join(["python", "sweeps/grid.py", *(sys.argv[1:] if arguments is None else arguments)])
    console.print("Interrupted; all that was reached is saved. To go on, run the same command again:")
    console.print(f"  {faults.masked(command)}", soft_wrap=True, markup=False)


def end(code: int) -> NoReturn:
    """Ends the process; at once, and its Ray with it, where slots came up ahead for nothing."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _leave(why: str) -> None:
    """At once, though threads wait for a Ray that is no more; what was reached is on the disk."""
    errors.show(Halted(why))
    os._exit(errors.REFUSED)


if __name__ == "__main__":
    end(main(ahead=True))
