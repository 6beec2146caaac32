"""`export --push` brings the folder to the hub as it is, with the user's token, or says in one line why not."""

from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from hub_server import Hub
from tiny_classifiers import made

from audioconfit import __main__

# huggingface_hub's way of sending a large file, which httpx would have otherwise
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/no/such/file")
    with hub_server.serving(monkeypatch) as hub:
        hub.writers.add("hf_secret")
        yield hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made().save(tmp_path / "model")
    return tmp_path / "model"


def test_what_arrives_is_the_folder(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for _ in range(2):  # a repository that is there takes another commit
        assert __main__.main(["export", str(model), str(tmp_path / "out"), "--push", "lab/crows"]) == 0
    said = capsys.readouterr()
    assert f"{hub.address}/lab/crows" in said.out
    assert "hf_secret" not in said.out + said.err
    repository = hub.repositories["lab/crows"]
    arrived = repository.commits[repository.revisions["main"]]
    assert arrived == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert len(hub.stored) == 2  # weights and probe came as large files
    assert len(repository.commits) == 2


@pytest.mark.parametrize(
    ("words", "token", "why"),
    [
        (["--push", "crows"], "hf_secret", "--push takes ORGANISATION/NAME"),
        (["--push", "lab/cr ows"], "hf_secret", "--push takes ORGANISATION/NAME"),
        (["--push", "lab/crows"], None, "there is no token; run `hf auth login`, or set HF_TOKEN"),
        (["--push", "lab/crows", "--to", "onnx"], "hf_secret", "takes --to transformers"),
        (["--push", "lab/crows"], "hf_wrong", "The hub refuses lab/crows: the token is not valid"),
        (["--push", "lab/crows"], "reader", "The hub refuses lab/crows: the token may not write there"),
    ],
)
def test_what_cannot_be_pushed_is_said_in_one_line(
    hub: Hub,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    token: str | None,
    why: str,
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert __main__.main(["export", str(model), str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert len(said.splitlines()) == 1
    assert str(token) not in said or token == "reader"
    assert not hub.repositories
    assert (tmp_path / "out").exists() == ("refuses" in why)  # what is sure to fail is said before the export


def test_without_a_network_the_export_is_kept_and_the_way_on_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert __main__.main(["export", str(model), str(tmp_path / "out"), "--push", "lab/crows"]) == 2
    said = capsys.readouterr().err
    assert "The hub cannot be reached (" in said
    assert f"hf upload lab/crows {tmp_path / 'out'}" in said
    assert len(said.splitlines()) == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()
