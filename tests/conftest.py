"""What several test files need: one Ray for all of them that need it."""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweeps  # noqa: F401  (sets Ray's environment, so it comes before Ray)

for variable in ("AUDIOCONFIT_STORAGE", "AUDIOCONFIT_OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(variable, None)  # a developer's own sweeps are not the tests' place
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray with two CPUs. Its workers can import the test modules, where the toys that they run live."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=200 * 1024**2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent / "support"), "OMP_NUM_THREADS": "1"}},
        )
        yield
        ray.shutdown()
