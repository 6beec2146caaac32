"""What is refused on purpose is one line and exit code 2; a bug keeps its traceback and is never the user's mistake."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest

from audioconfit import __main__ as command
from audioconfit import backbones, corpora, errors, splits
from audioconfit.corpora import Corpus
from audioconfit.errors import InputError


def refused() -> int:
    raise InputError("--trials: 0 is too few; choose 1 or more.\n--name: [x] is no name.")


def broken() -> int:
    return int((np.zeros(2) + np.zeros(3)).sum())


def test_what_is_refused_is_a_line_per_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.guard(refused) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --trials: 0 is too few; choose 1 or more.",
        "error: --name: [x] is no name.",
    ]


@pytest.mark.parametrize(
    "arguments", [["serve", "x" * 300], ["predict", "x" * 300, "y.wav"], ["export", "x", "y" * 300]]
)
def test_a_name_that_no_file_can_have_is_no_bug(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_the_machine_refuses_is_told_in_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert errors.guard(lambda: len((tmp_path / "loop").read_bytes())) == 2
    path = tmp_path / "loop"
    wanted = f"error: Too many levels of symbolic links: {path}. Name another, or make this one usable.\n"
    assert capsys.readouterr().err == wanted
    assert errors.guard(lambda: len((tmp_path / "missing").read_bytes())) == 1  # our code should have looked


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/y", "./" + "9" * 5000])
def test_a_long_name_is_no_backbone_and_no_corpus(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backbone"):
        backbones.find(f"./{name}")
    with pytest.raises(InputError, match=r"no folder or manifest|Unknown corpus"):
        corpora.load(f"./{name}", tmp_path)


def test_a_full_disk_and_a_folder_that_may_not_be_entered_are_no_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> int:
        with open("/dev/full", "w") as file:
            return file.write("x" * 100_000)

    def closed() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/closed/own")

    assert (errors.guard(full), errors.guard(closed)) == (2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "error: No space left on device. Make room, or mend what is wrong there, then run the same command again.",
        "error: Permission denied: /closed/own. Name another, or make this one usable.",
    ]


def test_a_name_that_is_no_unicode_is_printed_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="utf-8"))
    assert errors.guard(lambda: print("b\udce4r.wav", flush=True) or 0) == 0
    assert printed.getvalue() == b"b\\udce4r.wav\n"


def test_where_the_terminal_takes_any_bytes_the_name_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="utf-8", errors="surrogateescape"))
    assert errors.guard(lambda: print("b\udce4r.wav", flush=True) or 0) == 0
    assert printed.getvalue() == b"b\xe4r.wav\n"


@pytest.mark.parametrize("where", ["b\udce4r/a.wav", "a/b\udce4r.wav"])
def test_recordings_whose_names_are_no_unicode_are_refused_with_the_way_out(where: str, tmp_path: Path) -> None:
    for name in ("a/0.wav", "b/0.wav", where):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).touch()
    with pytest.raises(InputError, match=r"no Unicode text, the first is 'b\\udce4r.*convmv|'a/b\\udce4r"):
        corpora.load(str(tmp_path / "own"), tmp_path)


def test_a_bug_keeps_its_traceback_and_says_where_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.guard(broken) == 1
    said = capsys.readouterr().err
    assert "could not be broadcast" in said
    assert "Traceback" in said
    assert "issue tracker" in said


def test_a_bug_deep_in_the_method_is_not_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("audioconfit.catalogue.states", lambda *_: broken())
    assert command.main(["corpora"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_refusal_deep_in_the_method_is_an_input_error() -> None:
    with pytest.raises(InputError, match="Unknown protocol 'none'"):
        splits.split(Corpus("toy", ()), protocol="none")
