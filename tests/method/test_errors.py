"""What is refused on purpose is one line and exit code 2; a bug keeps its traceback and is never the user's mistake."""

import numpy as np
import pytest

from audioconfit import __main__ as command
from audioconfit import errors, splits
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
