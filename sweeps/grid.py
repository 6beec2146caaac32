"""Sweep the grid: `python sweeps/grid.py --datasets all`, or `--demo` to see it work without data, network or GPU.

plan -> prepare -> search -> confirm -> select -> register -> report. The same command with the same --name goes on
where it stopped.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from rich.console import Console

from sweeps import cluster, demo, forecast, nodes, plan, reconcile, report, storage, tasks
from sweeps.cells import lay_out
from sweeps.interrupt import INTERRUPTED, Halted, Interrupted
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 some cell has no result, 2 the request cannot be met (here, now), 130 interrupted."""
    console = Console()
    cluster.silence()
    try:
        return _start(arguments, console)
    except Halted as error:
        report.show_error(error)
        return 2
    except (Interrupted, KeyboardInterrupt):
        report.show_interrupted(arguments, console)
        return INTERRUPTED


def _start(arguments: Sequence[str] | None, console: Console) -> int:
    with ExitStack() as held:
        try:
            asked = plan.parse(arguments)
            if asked.demo:
                asked = demo.write_corpora(asked)
            tasks.check_writable(asked.folder)
            held.enter_context(storage.watched(asked.folder))
            held.enter_context(reconcile.lease(asked.folder))
            on_cluster = cluster.address() is not None
            if on_cluster:
                held.enter_context(cluster.connected(asked))
                nodes.check_shared(asked.storage.absolute(), asked.recordings)
            decode = partial(cluster.on_nodes, wait_seconds=asked.wait_seconds)
            ready = tasks.prepare(asked, console, map=decode if on_cluster else None)
            cells = lay_out(asked, ready)
            if asked.dry_run:
                report.show_plan(asked, cells, ready, forecast.of_cells(asked, cells, ready), console)
                return 0
            reconcile.reconcile(asked.folder, cells)
        except ValueError as error:
            report.show_error(error)
            return 2
        return Sweep(asked, cells, {task.dataset: task.folds for task in ready}, console).run()


if __name__ == "__main__":
    sys.exit(main())
