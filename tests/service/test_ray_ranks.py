"""Ranks under Ray Train: a whole PairTune run on 2 workers ends where 1 worker ends."""

from pathlib import Path

import pytest
import torch
from small_runs import store_tuned, tuned


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("local_ray")
def test_a_run_on_two_ray_workers_ends_where_one_ends(tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        store_tuned,
        train_loop_config={"folder": str(tmp_path)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(tmp_path), name="ranks"),
    ).fit()
    alone = tuned(tmp_path / "alone.pt")
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.found")
        assert found["finished"]
        torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
