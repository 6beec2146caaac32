"""What several benchmarks need: the real EmoDB, where it is at hand, and one thread, so that runs can be compared."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from audioconfit import audio, corpora
from audioconfit.audio import Waveforms

REAL = Path(os.environ.get("AUDIOCONFIT_DATA", "data"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def emodb_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that EmoDB is prepared in."""
    try:
        corpus = corpora.load("emodb", REAL)
    except (ValueError, FileNotFoundError) as error:
        pytest.skip(f"no EmoDB in AUDIOCONFIT_DATA ({REAL}): {error}")
    folder = tmp_path_factory.mktemp("emodb")
    audio.prepare(corpus, folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def emodb(emodb_store: Path) -> Waveforms:
    return audio.load(emodb_store)
