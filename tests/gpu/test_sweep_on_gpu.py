"""A sweep on a GPU, as its users start it: slots that share the card, the driver killed with kill -9 in the middle."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("ray", reason="Ray is not installed here")
pytest.importorskip("optuna", reason="Optuna is not installed here")
pytest.importorskip("mlflow", reason="MLflow is not installed here")

import drivers
import makers
from drivers import audit, driver

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]

TRIALS, EPOCHS = 6, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.tones(tmp_path_factory.mktemp("data") / "tones", classes=4, clips=20, noise=7.0)


def command(data: Path, storage: Path, *more: str) -> list[str]:
    return [
        *("--datasets", str(data), "--backbones", "wav2vec2-random", "--storage", str(storage), "--name", drivers.NAME),
        *("--trials", str(TRIALS), "--epochs", str(EPOCHS), "--seeds", "1", "--select", "holdout"),
        *("--batch-sizes", "8,16", "--chunks", "0.25,0.3,0.4", *more),
        *(("--gpus-per-worker", "0.25") if torch.cuda.is_available() else ()),
    ]


@pytest.mark.parametrize("slots", [1, 4])
def test_a_killed_sweep_goes_on_where_it_stopped(data: Path, tmp_path: Path, slots: int) -> None:
    storage, arguments = tmp_path / "storage", command(data, tmp_path / "storage", "--slots", str(slots))
    for moment in (lambda: drivers.reported(storage, 1), lambda: drivers.confirming(storage)):
        with driver(arguments, tmp_path / "said") as run:
            run.until(moment, timeout=120)
            run.kill()
    with driver(arguments, tmp_path / "said") as run:
        assert run.wait(120) == 0, run.said()
    ledger = audit(storage, trials=TRIALS)
    print(f"{slots} slots, killed twice: valid {[value for _, _, value in ledger.trials]}, {ledger.scores}")
    cost = (storage / drivers.NAME / "paper" / "paper.md").read_text()
    assert ("GPU hours" if torch.cuda.is_available() else "CPU hours") in cost
