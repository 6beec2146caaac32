"""Training: the loop's promises to the service: same seed, same weights, also after an interruption anywhere."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Listener, batches, weights
from torch import Tensor, nn

from audioconfit import finetune, losses, pairtune, training
from audioconfit.training import Settings


def trained(epochs: int = 3, **settings: Any) -> tuple[Tensor, list[tuple[int, dict[str, float]]]]:
    """Weights after PairTune, and what was told of it."""
    encoder, told = Listener(), []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        told.append((epoch, metrics))
        return True

    assert pairtune.train(
        encoder, batches(), Settings(**{"lr": 1e-2, "epochs": epochs, "seed": 0, "report": report} | settings)
    )
    return weights(encoder), told


def stop_at(call: int) -> Callable[[int, dict[str, float]], bool]:
    """A report whose answer to the call of this number, from 1, is to stop."""
    calls = iter(range(1, call + 1))
    return lambda epoch, metrics: next(calls) < call


def test_the_loss_falls() -> None:
    _, told = trained(epochs=20)
    assert told[-1][1]["loss"] < 0.7 * told[0][1]["loss"]


def test_finetune_learns_the_classes() -> None:
    told = []
    encoder = Listener(dropout=0.0)
    finetune.train(
        encoder,
        batches(),
        Settings(lr=3e-2, epochs=20, seed=0, report=lambda *news: told.append(news) or True),  # type: ignore[func-returns-value]
    )
    assert told[-1][1]["loss"] < 0.2


def test_every_epoch_is_told_with_its_loss() -> None:
    _, told = trained(epochs=3)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert all(metrics.keys() == {"epoch", "loss"} for _, metrics in told)


def test_same_seed_same_weights() -> None:
    assert torch.equal(trained(seed=1)[0], trained(seed=1)[0])
    assert not torch.equal(trained(seed=1)[0], trained(seed=2)[0])


def test_the_global_random_streams_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    trained()
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()


def test_validation_joins_the_metrics_and_does_not_change_the_training() -> None:
    encoder = Listener()

    def validate(epoch: int) -> dict[str, float]:
        assert not encoder.training
        torch.rand(epoch)
        np.random.rand(epoch)
        return {"valid_accuracy": epoch / 10} if epoch != 2 else {}

    told = []
    pairtune.train(
        encoder,
        batches(),
        Settings(lr=1e-2, epochs=3, seed=0, validate=validate, report=lambda *news: told.append(news) or True),  # type: ignore[func-returns-value]
    )
    assert [metrics.get("valid_accuracy") for _, metrics in told] == [0.1, None, 0.3]
    assert torch.equal(weights(encoder), trained()[0])


def test_a_stop_at_an_epoch_ends_there_and_says_so() -> None:
    told = []
    finished = pairtune.train(
        Listener(),
        batches(),
        Settings(lr=1e-2, epochs=9, seed=0, report=lambda *news: told.append(news) or len(told) < 2),  # type: ignore[func-returns-value]
    )
    assert not finished
    assert [epoch for epoch, _ in told] == [1, 2]


def test_a_sign_of_life_comes_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "HEARTBEAT_SECONDS", 0.0)
    _, told = trained(epochs=1)
    assert told[:-1] == [(1, {})] * 5  # 40 clips, 8 a batch
    assert told[-1][1]["epoch"] == 1


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("call", range(1, 19))
def test_resume_is_bit_for_bit_wherever_it_stopped(
    call: int, micro_batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "HEARTBEAT_SECONDS", 0.0)  # told at every step, so a stop can come at every step
    settings = {"lr": 1e-2, "epochs": 3, "seed": 0, "checkpoint": tmp_path / "run.pt", "micro_batch": micro_batch}
    assert not pairtune.train(Listener(), batches(), Settings(report=stop_at(call), **settings))
    undisturbed, told = trained(micro_batch=micro_batch)
    resumed, told_again = trained(**settings)
    assert torch.equal(resumed, undisturbed)
    assert [news for news in told_again if news[1]] == [news for news in told if news[1]]


def test_a_finished_run_is_told_again_and_not_repeated(tmp_path: Path) -> None:
    first, told = trained(checkpoint=tmp_path / "run.pt")
    again, told_again = trained(checkpoint=tmp_path / "run.pt")
    assert torch.equal(first, again)
    assert told == told_again


def test_a_checkpoint_beyond_the_epochs_asked_for_is_refused(tmp_path: Path) -> None:
    trained(epochs=3, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="has 3 epochs behind it, more than the 2 asked for"):
        trained(epochs=2, checkpoint=tmp_path / "run.pt")


def test_a_checkpoint_leaves_no_temporary_file_and_needs_no_pickle(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path / "run.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    torch.load(tmp_path / "run.pt", weights_only=True)


def test_a_loss_that_is_no_number_ends_the_run_with_its_place() -> None:
    calls = iter(range(100))

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return losses.supcon(outputs, labels) * (torch.nan if next(calls) == 7 else 1)

    with pytest.raises(training.Diverged, match="became nan in epoch 2, step 3") as caught:
        training.fit(Listener(), nn.Identity(), loss, batches(), Settings(lr=1e-2, epochs=3, seed=0, micro_batch=None))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_warm_up_reaches_the_learning_rate_in_even_steps() -> None:
    # Adam's first step is lr in every direction, whatever the gradient: after one of 10 warm-up steps it is lr / 10.
    encoder = Listener(dropout=0.0)
    before = weights(encoder)
    settings = Settings(lr=1e-2, epochs=1, seed=0, warmup_steps=10)
    pairtune.train(encoder, batches(batch_size=40), settings)
    assert (weights(encoder) - before).abs().max().item() == pytest.approx(1e-3, rel=1e-3)


def test_batches_for_other_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="These batches are for 2 workers, but 1 train"):
        pairtune.train(Listener(), batches(world=2), Settings(lr=1e-2, epochs=1, seed=0))


@pytest.mark.parametrize("micro_batch", [0, "half"])
def test_a_micro_batch_that_is_no_number_of_rows_is_refused(micro_batch: object) -> None:
    with pytest.raises(ValueError, match="Choose for micro_batch a number of rows, 1 or more, or 'auto', not"):
        trained(micro_batch=micro_batch)


def test_rows_shorter_than_a_frame_are_refused_before_the_first_step() -> None:
    encoder = Listener()
    encoder.receptive_field = 161
    with pytest.raises(ValueError, match="A row of 160 samples cannot be embedded: one frame takes 161"):
        pairtune.train(encoder, batches(), Settings(lr=1e-2, epochs=1, seed=0))
