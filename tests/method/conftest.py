"""What several test files of the method need: a manifest that the test writes, and exports without checks of shapes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from stand_in_names import touch

from audioconfit import corpora
from audioconfit.corpora import Corpus


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Corpus]:
    """Write `text` as a manifest beside the files a.wav to h.wav and load it."""
    touch(tmp_path, [f"{letter}.wav" for letter in "abcdefgh"])

    def written(text: str, name: str = "birds.csv") -> Corpus:
        (tmp_path / name).write_text(text)
        return corpora.load(str(tmp_path / name), tmp_path)

    return written


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The exporter calls with symbols in place of numbers, which the checks of shapes and types refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
