"""Quick sweeps: what a forked child of forking.py does: a sweep without Ray, a repair, a look at what a sweep left."""

import json
import sys
from pathlib import Path
from typing import Any

import drivers
import optuna
import without_ray
from mlflow import MlflowClient
from mlflow.utils import requirements_utils
from rich.console import Console

import sweeps.sweep  # noqa: F401  (what grid.py imports when it starts)
from sweeps import check, grid
from sweeps.request import datasets, flags
from sweeps.tracking import server

BEFORE = set(sys.modules)


def warm() -> None:
    """What MLflow reads once a process, in seconds: which package each module of this environment is of."""
    requirements_utils._init_modules_to_packages_map()


def sweep(arguments: list[str], what: str = "", at: int = -1, imported: str | None = None) -> int:
    """The command; `what` happens at the `at`th time that a worker tells something."""
    without_ray.replace(what, at)
    code = grid.main(arguments)
    if imported is not None:
        Path(imported).write_text(json.dumps(sorted(set(sys.modules) - BEFORE)))
    return code


def ground(arguments: list[str]) -> int:
    """A storage as a sweep finds it that is not its first one: recordings prepared, MLflow's tables made."""
    plan = flags.parse(arguments, {})
    datasets.prepare(plan, Console(quiet=True))
    MlflowClient(tracking_uri=server.database_in(plan.storage)).search_experiments()
    return 0


def repair(storage: str) -> int:
    """What the sentence tells people to run."""
    return check.main([storage, "--repair"])


def look(storage: str, cell: str, out: str) -> int:
    """All that is wrong in the storage, and what the sweep found."""
    found = _found(Path(storage), cell)
    wrong = [f"{one.what}: {one.problem}" for one in check.audit(Path(storage))]
    Path(out).write_text(json.dumps({"wrong": wrong, "found": found}))
    return 0


def _found(storage: Path, cell: str) -> dict[str, Any]:
    """Each trial with its point and score, each run with its end, the champion with its scores."""
    folder = storage / drivers.NAME
    study = optuna.load_study(study_name=cell, storage=f"sqlite:///{folder / 'optuna.db'}")
    client = MlflowClient(tracking_uri=server.database_in(storage))
    experiment: Any = client.get_experiment_by_name(drivers.NAME)
    runs = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions("name = 'audioconfit-tones'")
    champion = client.get_model_version_by_alias("audioconfit-tones", "champion")
    key = champion.tags["key"]
    result = json.loads((folder / "trials" / key / "result.json").read_text())
    return {
        "trials": [[one.params, one.state.name, one.value] for one in study.get_trials()],
        "runs": sorted([run.data.tags["key"], run.info.status, _score(run)] for run in runs),
        "versions": len(versions),
        "champion": [key, result["recipe"], result["metrics"]],
    }


def _score(run: Any) -> float | None:
    return run.data.metrics.get("valid_score")
