"""Tune's view of a job: a thin proxy without resources of its own, reused from trial to trial.

It imports neither torch nor the method, so that a new one is up in a second.
"""

from typing import Any

import ray
from ray import tune

from sweeps.hub import Order


class Trial(tune.Trainable):
    """Follows one job after the other; what the job tells is what Tune hears."""

    def setup(self, config: dict[str, Any], hub: Any = None) -> None:
        self.hub = hub
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self.order: Order = config["order"]
        self.step_seen, self.ended = -1, True

    def step(self) -> dict[str, Any]:
        # Ours to cancel only from here: Tune may build an actor for a trial, give the trial to a cached one and drop
        # this one unused.
        self.ended = False
        self.step_seen, metrics, end = ray.get(self.hub.follow.remote(self.order, self.step_seen))
        if metrics is None:  # the trial failed, not its actor: raising would make Tune try again
            self.ended = True
            return {"done": True, "failed": end}
        self.ended = bool(metrics.get("ended"))
        return {**metrics, "done": self.ended}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self.ended:
            ray.get(self.hub.cancel.remote(self.order.key))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the stage store and Optuna's storage hold all that matters."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, as above."""
