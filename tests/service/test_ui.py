"""`python sweeps/ui.py`: what it refuses, and how MLflow's server comes and goes with it."""

import socket
from pathlib import Path

import makers
import pytest

from audioconfit.errors import InputError
from sweeps import ui
from sweeps.tracking import server
from sweeps.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage whose MLflow has one sweep, `try`."""
    folder = tmp_path_factory.mktemp("storage")
    made = Tracker(server.database_in(folder), makers.IDENTITY, folder / "tracking")
    made.page({"pairtune": {}})
    made.cell("a-cell", tags={})
    made.close()
    return folder


def test_a_storage_without_a_sweep_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: There is no mlflow.db in {tmp_path}: no sweep has run there.")
    assert len(said.strip().splitlines()) == 1


def test_a_file_that_is_no_database_and_an_unknown_sweep_are_refused(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert ui.main([str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert ui.main([str(storage), "--name", "other"]) == 2
    assert "has no sweep other; it has try. Choose one with --name." in capsys.readouterr().err


def test_a_taken_port_is_refused_and_none_is_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: It is taken"):
            server.free_port(port)
    assert server.free_port(None) >= server.PORT
    with pytest.raises(InputError, match="--port 70000"):
        server.free_port(70000)


def test_a_server_of_ones_own_is_only_linked_to(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "experiment", lambda uri, name: "7")  # a server takes half a minute to start
    assert ui.main(["--tracking-uri", "http://mlflow.example:5000"]) == 0
    assert capsys.readouterr().out.startswith("http://mlflow.example:5000/#/experiments/7/runs?")
