"""Sweep the grid: `python sweeps/grid.py --datasets all`, or `--demo` to see it work without data, network or GPU.

plan -> prepare -> search -> confirm -> select -> register -> report. The same command with the same --name goes on
where it stopped.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from rich.console import Console

from audioconfit import errors
from sweeps import faults, identity
from sweeps.cluster import capacity, joining, nodes
from sweeps.faults import Halted, Interrupted
from sweeps.interrupt import INTERRUPTED
from sweeps.request import backbones, datasets, flags, forecast, resuming
from sweeps.request.cells import lay_out, tell_apart
from sweeps.request.plan import Plan
from sweeps.sweep import Sweep, slot_request
from sweeps.terminal import report


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 a cell has no result (or a bug), 2 the request cannot be met, 130 interrupted."""
    console = Console()
    joining.silence()
    return errors.guard(lambda: _start(arguments, console))


def _start(arguments: Sequence[str] | None, console: Console) -> int:
    try:
        return _run(flags.parse(arguments), console)
    except Halted as error:
        errors.show(error)
        return errors.REFUSED
    except (Interrupted, KeyboardInterrupt):
        report.show_interrupted(arguments, console)
        return INTERRUPTED


def _run(plan: Plan, console: Console) -> int:
    with ExitStack() as stack:
        if plan.demo:
            plan = datasets.generate(plan)
        backbones.check(plan)
        faults.check_writable(plan.folder)
        stack.enter_context(faults.watched(plan.folder))
        stack.enter_context(resuming.lease(plan.folder))
        on_cluster = joining.address() is not None
        if not on_cluster:
            joining.check_temporary()
        if on_cluster:
            stack.enter_context(joining.join())
            capacity.fitting_shape(slot_request(plan))  # before hours of decoding
            nodes.check_shared(plan.storage.absolute(), plan.recordings)
        decode = partial(joining.map_on_nodes, wait_seconds=plan.wait_seconds)
        ready = datasets.prepare(plan, console, map=decode if on_cluster else None)
        cells = tell_apart(lay_out(plan, ready), resuming.recorded(plan.folder))
        if plan.dry_run:
            report.show_plan(plan, cells, ready, forecast.of_cells(plan, cells, ready), console)
            return 0
        itself = identity.of(plan.folder, begun=resuming.has_begun(plan.folder))
        resuming.reconcile(plan.folder, cells)
        return Sweep(plan, itself, cells, ready, console).run()


if __name__ == "__main__":
    sys.exit(main())
