"""Tests that need a GPU: `pytest -m gpu --confcutdir=tests/gpu tests/gpu`, or all of it with `bash tests/gpu/run.sh`.

Neither Ray nor MLflow nor Optuna has to be there. AUDIOCONFIT_REHEARSE=1 runs what can run on a CPU, so that the tests
themselves are tried out before there is a GPU: both sides of a comparison are then the CPU.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # material, measuring
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts: its way to repeat bit for bit

from collections.abc import Iterator

import pytest
import torch

REHEARSING = os.environ.get("AUDIOCONFIT_REHEARSE") == "1"


def pytest_configure(config: pytest.Config) -> None:
    # The GPU machine has other releases of these than CI, and they warn about each other.
    for package in ("transformers", "accelerate", "huggingface_hub", "torch", "pydantic"):
        config.addinivalue_line("filterwarnings", rf"ignore:::{package}(\.|$)")
    config.addinivalue_line("filterwarnings", "ignore:Synchronization debug mode is a prototype feature")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "there is no CUDA here" if not torch.cuda.is_available() else ""
    for item in items:
        if item.get_closest_marker("gpu") and reason and (not REHEARSING or item.get_closest_marker("cuda_only")):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line of JSON a test, at once: what a cut-off run leaves."""
    if "TOLD" in os.environ and (report.when == "call" or not report.passed):
        line = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration, "said": report.capstdout}
        with open(os.environ["TOLD"], "a") as told:
            told.write(json.dumps(line) + "\n")


@pytest.fixture
def device() -> torch.device:
    """The GPU; in a rehearsal the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def plain_float32() -> Iterator[None]:
    """Without TF32, which torch allows to convolutions unless told otherwise, and with memory left as it was found."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Only kernels that repeat bit for bit; an operation that has none raises."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
