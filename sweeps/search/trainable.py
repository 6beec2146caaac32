"""Tune's side of a trial: a thin proxy without resources of its own, reused from trial to trial.

It imports neither torch nor the method, so that a new one starts within a second.
"""

from typing import Any

from ray import tune

from sweeps.slots.job_queue import Job
from sweeps.slots.jobs import Jobs, JobStopped


class Trial(tune.Trainable):
    """Follows one job after the other. A result's own numbers lie under the key `update`, apart from Tune's."""

    def setup(self, config: dict[str, Any], jobs: Jobs | None = None) -> None:
        assert jobs is not None
        self.jobs = jobs
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self.job: Job = config["job"]
        self.updates, self.ended = self.jobs.results(self.job), True

    def step(self) -> dict[str, Any]:
        # Ours to cancel only from here: Tune may build an actor for a trial, give the trial to a cached actor and drop
        # this one unused.
        self.ended = False
        try:
            update = next(self.updates)
        except JobStopped as stopped:  # the trial failed, not its actor: raising would make Tune try again
            self.ended = True
            return {"done": True, "update": {"failed": stopped.why}}
        self.ended = update.is_last
        return {"done": self.ended, "update": update.metrics}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self.ended:
            self.jobs.cancel(self.job.key)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the stage store and Optuna's storage hold everything that matters."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, as above."""
