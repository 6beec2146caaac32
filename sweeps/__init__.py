"""The service around the method: sweeps a grid of backbones x datasets on Ray, logs to MLflow, hands over the best
probe per task.

Ray and MLflow read their settings from the environment when they are imported, so they are set here, before any module
of this package imports them. A setting of the user's own wins.
"""

import importlib
import os
from typing import Any

__all__ = ["run"]

_SETTINGS = {
    # Tune: our searcher's storage and our journal hold the truth; its own snapshots, loggers and output only cost time.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # early results have no final score
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it ends the sweep with everything saved
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a slot's thread that outlives its Ray must not start another
    # Train: notice a dead worker soon, restart its slot soon.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
    # A sweep sends nothing to anybody, and stops for no question.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # The tracker tries again for as long as the sweep runs, and looks first. MLflow itself would block for minutes in
    # each call, and make a run or a version twice where the server did it and then hung up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a line per trial where MLflow is a server
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "false",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)


def run(**words: Any) -> Any:
    """A sweep from Python: `sweeps.notebook.run`, which imports torch, Ray and MLflow when it is called."""
    return importlib.import_module("sweeps.notebook").run(**words)
