"""Look at a sweep in MLflow: `python sweeps/ui.py STORAGE` starts MLflow's server on it and prints the page's link.

With a server of your own (--tracking-uri, or MLFLOW_TRACKING_URI) only the link. Ctrl-C ends the server.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from audioconfit import errors
from sweeps import faults
from sweeps.request import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 after Ctrl-C, 2 where there is nothing to look at."""
    parser = argparse.ArgumentParser(prog="python sweeps/ui.py", description=__doc__)
    parser.add_argument("storage", nargs="?", type=Path, help="of the sweeps; default $AUDIOCONFIT_STORAGE or storage")
    parser.add_argument("--name", help="of the sweep; default the one that began last")
    parser.add_argument("--port", type=int, help="of the server; default the first free one from 5000 on")
    parser.add_argument("--tracking-uri", help="of the sweep's own MLflow; default the database in the storage")
    asked = parser.parse_args(arguments)
    return errors.guard(lambda: _show(asked, Console()))


def _show(asked: argparse.Namespace, console: Console) -> int:
    places = flags.places(storage=asked.storage, tracking_uri=asked.tracking_uri)
    from sweeps.tracking import mlflow_page, server  # seconds of MLflow, which --help does without

    # A storage that was named is meant, whatever the environment says.
    remote = places.tracking_uri if asked.tracking_uri or not asked.storage else None
    uri = remote or server.database(places.storage)
    experiment = server.experiment(uri, asked.name)
    if uri.startswith("http"):
        console.print(mlflow_page.link(faults.masked(uri), experiment), soft_wrap=True)
        return 0
    port = server.free_port(asked.port)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell that started it behind itself ignores the first
        signal.signal(number, signal.default_int_handler)
    try:
        console.print("MLflow's server is starting; this takes half a minute.")
        with server.running(uri, port) as served:
            console.print("Open this page (Ctrl-C ends the server):", style="bold")
            console.print(f"  {mlflow_page.link(served.address, experiment)}", soft_wrap=True, highlight=False)
            return served.process.wait() and errors.BUG
    except KeyboardInterrupt:
        console.print("The server has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
