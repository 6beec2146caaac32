"""Passwords in the addresses of databases and servers are nowhere printed."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from audioconfit.errors import InputError
from sweeps import grid, preflight
from sweeps.outcome.registry import Registered
from sweeps.search.studies import open_storage
from sweeps.terminal import report
from sweeps.tracking import server

SECRET = "hunter2"
DATABASE, SERVER = f"postgresql://me:{SECRET}@127.0.0.1:9/x", f"http://me:{SECRET}@127.0.0.1:9"


def refusal(call: Callable[..., object], *words: object) -> str:
    with pytest.raises(InputError) as refused:
        call(*words)
    return str(refused.value)


@pytest.mark.parametrize("uri", [DATABASE, SERVER])
def test_the_end_of_a_sweep_shows_how_to_go_on_without_the_password(uri: str, tmp_path: Path) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=400)
    champion = Registered("audioconfit-tones", "1", "models:/audioconfit-tones/1", "It is the best.", "a-cell")
    report.show_links(uri, tmp_path / "try", "1", [champion], console, refitted=False)
    grid.show_interrupted(["--tracking-uri", uri, "--optuna-storage", DATABASE], console)
    said = printed.getvalue()
    assert "me:***@127.0.0.1" in said
    assert SECRET not in said


def test_refusals_name_no_password() -> None:
    said = [
        refusal(open_storage, DATABASE),
        refusal(open_storage, f"nosuch+driver://me:{SECRET}@host/x"),
        refusal(server.experiment, DATABASE, None),
        *(preflight._mlflow(uri).finding for uri in (DATABASE, SERVER)),
    ]
    assert all("me:***@" in each for each in said)
    assert not [each for each in said if SECRET in each]
