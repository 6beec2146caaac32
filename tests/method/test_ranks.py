"""Ranks: on several real workers, a step is the step that one worker takes on the whole batch."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from small_runs import Listener, tuned, weights
from torch import Tensor, nn

from audioconfit import caching, encoders, features, losses, mining, ranks
from audioconfit.batches import Batch

ROWS = 13  # divides by neither 2 nor 4
MINED = {
    "every pair": {},
    "multi-similarity": {"miner": mining.multi_similarity},
    "hardest": {"miner": mining.hardest},
    "denominator kept": {"miner": mining.hardest, "keep_denominator": True},
}
# Classes 3 to 5 have one row each: anchors without a positive. Mining drops more.
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 5])


def gradient(dtype: torch.dtype, loss: Callable, labels: Tensor, micro_batch: int = ROWS) -> Tensor:
    """Of a small network's weights, on this rank's rows of one batch, summed over ranks."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, 6, generator=draw).to(dtype)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    mine = torch.tensor_split(torch.arange(ROWS), ranks.world())[ranks.rank()]
    batch = Batch(rows[mine], None, labels[mine])
    caching.backward(lambda piece: network(piece.waveforms), loss, batch, micro_batch=micro_batch)
    ranks.sum_gradients(network.parameters())
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def gradients() -> dict[str, Tensor]:
    """Every kind of loss in both precisions."""
    label_sets = (torch.rand(ROWS, 5, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        for kind, settings in MINED.items():
            found[f"SupCon, {kind}, {name}"] = gradient(dtype, partial(losses.supcon, **settings), LABELS)
        found[f"SupCon in pieces, {name}"] = gradient(dtype, losses.supcon, LABELS, micro_batch=2)
        found[f"SupCon of label sets, {name}"] = gradient(dtype, losses.supcon, label_sets)
        found[f"cross-entropy, {name}"] = gradient(dtype, losses.cross_entropy, LABELS.clamp(max=3))
        found[f"cross-entropy of label sets, {name}"] = gradient(dtype, losses.cross_entropy, label_sets[:, :4])
    return found


def extracted() -> tuple[Tensor, int]:
    """Embeddings of clips of several lengths in five batches, and how many of those this rank embedded."""
    encoder, calls = encoders.load("wav2vec2-random"), 0

    def count(*unused: Any) -> None:
        nonlocal calls
        calls += 1

    encoder.register_forward_hook(count)
    draw = np.random.default_rng(0)
    recordings = {f"{n}": draw.integers(-9000, 9000, 8000 + 700 * n).astype(np.int16) for n in range(10)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BATCH_SECONDS", 2.0)
        return features.embed(encoder, recordings, list(recordings), chunk_seconds=1.0, shared=True), calls


def everything(folder: Path) -> dict[str, Any]:
    """What one rank of a group found out."""
    found: dict[str, Any] = {
        "gradients": gradients(),
        "gathered": ranks.gather(torch.full((ranks.rank() + 1,), ranks.rank())),
    }
    found["extracted"], found["embedded batches"] = extracted()
    found["tuned"] = tuned(folder / "whole.pt")
    # Rank 0 says stop at its second epoch, the others would go on.
    found["stopped"] = tuned(folder / "stopped.pt", answers=lambda told: ranks.rank() > 0 or told < 2, dropout=0.2)
    found["resumed"] = tuned(folder / "stopped.pt", dropout=0.2)
    found["undisturbed"] = tuned(folder / "undisturbed.pt", dropout=0.2)
    # On the last rank alone the first gradient overflows.
    last = ranks.rank() == ranks.world() - 1
    found["fp16"] = tuned(folder / "fp16.pt", overflows=last, precision="fp16")
    return found


def work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.save(everything(Path(folder)), Path(folder) / f"{rank}.found")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield everything(Path(folder))


@pytest.fixture(scope="module", params=[2, 4])
def together(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each of 2 or 4 real processes found out."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        # One server that has imported everything and forks: spawning would import it all again in every process.
        multiprocessing.get_context("forkserver").set_forkserver_preload(["audioconfit.pairtune"])
        multiprocessing.start_processes(work, (request.param, port, folder), request.param, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.found") for rank in range(request.param)]


def test_rows_are_gathered_in_rank_order_however_many_each_has(together: list[dict[str, Any]]) -> None:
    expected = [rank for rank in range(len(together)) for _ in range(rank + 1)]
    assert all(found["gathered"].tolist() == expected for found in together)


def test_the_gradient_is_that_of_one_worker(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for name, expected in alone["gradients"].items():
        assert expected.norm() > 0, name
        for found in together:
            error = (found["gradients"][name] - expected).norm() / expected.norm()
            assert error < (1e-12 if name.endswith("float64") else 1e-6), f"{name}: {error:.1e}"


def test_an_extraction_is_shared_and_bit_for_bit_that_of_one_worker(
    together: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    assert all(torch.equal(found["extracted"], alone["extracted"]) for found in together)
    shares = [found["embedded batches"] for found in together]
    assert (sum(shares), alone["embedded batches"]) == (5, 5)
    assert max(shares) == -(-5 // len(together))


def test_a_run_ends_where_one_worker_ends(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for found in together:
        torch.testing.assert_close(found["tuned"]["weights"], alone["tuned"]["weights"], rtol=1e-3, atol=1e-4)
        for (_, metrics), (_, expected) in zip(found["tuned"]["told"], alone["tuned"]["told"], strict=True):
            assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_all_ranks_have_the_same_weights(together: list[dict[str, Any]]) -> None:
    for run in ("tuned", "stopped", "resumed"):
        assert all(torch.equal(found[run]["weights"], together[0][run]["weights"]) for found in together)


def test_a_gradient_that_overflows_on_one_rank_is_left_out_on_all(together: list[dict[str, Any]]) -> None:
    for found in together:
        assert found["fp16"]["scale"]["scale"] <= 2.0**15
        assert found["fp16"]["weights"].isfinite().all()
        assert torch.equal(found["fp16"]["weights"], together[0]["fp16"]["weights"])
        assert not torch.equal(found["fp16"]["weights"], weights(Listener()))


def test_the_first_rank_stops_all_at_the_same_epoch(together: list[dict[str, Any]]) -> None:
    assert not any(found["stopped"]["finished"] for found in together)
    assert all([epoch for epoch, _ in found["stopped"]["told"]] == [1, 2] for found in together)


def test_a_resumed_run_has_every_rank_s_random_state(together: list[dict[str, Any]]) -> None:
    for found in together:
        assert found["resumed"]["finished"]
        assert torch.equal(found["resumed"]["weights"], found["undisturbed"]["weights"])
        assert found["resumed"]["told"] == found["undisturbed"]["told"]


def test_without_a_group_there_is_one_rank() -> None:
    rows = torch.ones(3, 2)
    assert (ranks.world(), ranks.rank(), ranks.first_row(3)) == (1, 0, 0)
    assert ranks.gather(rows) is rows
    assert ranks.collect("value") == ["value"]
    assert ranks.agree(True)
    assert not ranks.agree(False)


def test_the_wrong_rules_would_be_found_out() -> None:
    # The check is sharp: ranks that ignore each other's rows are far off the gradient of the whole batch.
    whole = gradient(torch.float64, losses.supcon, LABELS)
    apart = gradient(torch.float64, lambda rows, labels: losses.supcon(rows[:7], labels[:7]), LABELS)
    assert F.cosine_similarity(whole, apart, dim=0) < 0.99
