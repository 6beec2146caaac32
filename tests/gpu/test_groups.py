"""Ranks and neighbours on GPUs: two ranks take the step of one worker, two processes share one GPU.

NCCL wants a GPU per rank. With one GPU the two ranks talk through gloo, and what NCCL would carry is tried with a
group of one.
"""

import socket
from pathlib import Path
from typing import Any

import material
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from audioconfit import encoders, losses, mining, pairtune, ranks

pytestmark = pytest.mark.gpu
ROWS = 13
GPUS = torch.cuda.device_count()
BACKEND = "cpu:gloo,cuda:nccl" if GPUS >= 2 else "gloo"


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def trained(device: torch.device) -> dict[str, Any]:
    """PairTune on this rank: the way of the weights, and what was told."""
    encoder = encoders.load("wav2vec2-random")
    before = material.weights(encoder)
    batches = material.batches(device, batch_size=10, rank=ranks.rank(), world=ranks.world())
    told = material.told(pairtune.train, encoder, batches, lr=1e-4, epochs=2, seed=0, device=device, micro_batch=None)
    return {"way": material.weights(encoder) - before, "told": told}


def gradient(device: torch.device) -> Tensor:
    """Of SupCon over mined pairs with respect to all rows, in float64: each rank computes those of its own."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, 6, generator=draw, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=draw, dtype=torch.float64).to(device).requires_grad_()
    mine = torch.tensor_split(torch.arange(ROWS), ranks.world())[ranks.rank()]
    labels = (torch.arange(ROWS) % 4)[mine].to(device)
    losses.supcon((rows[mine].to(device) @ weight).tanh(), labels, miner=mining.multi_similarity).backward()
    parameter = torch.nn.Parameter(weight.detach())
    parameter.grad = weight.grad
    ranks.sum_gradients([parameter])
    return parameter.grad.cpu()


def work(rank: int, tcp_port: int, folder: str, kind: str) -> None:
    """What one process does: alone on the GPU that it shares, then as a rank of a group."""
    device = torch.device(kind, rank % GPUS) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    found: dict[str, Any] = {"alone": trained(device)}
    dist.init_process_group(BACKEND, init_method=f"tcp://127.0.0.1:{tcp_port}", rank=rank, world_size=2)
    found["gathered"] = ranks.gather(torch.full((rank + 1,), rank, device=device)).cpu()
    found["gradient"] = gradient(device)
    found["together"] = trained(device)
    found["agreed"] = ranks.agree(rank == 0)
    torch.save(found, Path(folder) / f"{rank}.found")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    kind = "cuda" if GPUS else "cpu"
    multiprocessing.start_processes(work, (port(), str(folder), kind), 2, start_method="spawn")
    return [torch.load(folder / f"{rank}.found") for rank in range(2)]


def test_two_processes_on_one_gpu_train_as_one_alone(both: list[dict[str, Any]], device: torch.device) -> None:
    expected = trained(device)
    for found in both:
        assert found["alone"]["told"] == pytest.approx(expected["told"], rel=1e-3)


def test_two_ranks_take_the_step_of_one_worker(both: list[dict[str, Any]], device: torch.device) -> None:
    alone, expected = gradient(device), trained(device)
    assert torch.equal(both[0]["together"]["way"], both[1]["together"]["way"])
    for found in both:
        assert found["gathered"].tolist() == [0, 1, 1]
        assert found["agreed"]
        assert material.shift(found["gradient"], alone) < 1e-12
        assert found["together"]["told"] == pytest.approx(expected["told"], rel=1e-3)


@pytest.mark.cuda_only
def test_a_group_of_one_under_nccl_beside_gloo(device: torch.device) -> None:
    """The backend of a slot: flags and counts travel through gloo, rows and gradients through NCCL."""
    torch.cuda.set_device(0)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"tcp://127.0.0.1:{port()}", rank=0, world_size=1)
    try:
        assert ranks._wire() == torch.device("cpu")
        assert ranks._row_counts(5) == [5]
        rows = torch.randn(5, 3, device=device, requires_grad=True)
        gathered = ranks._Gather.apply(rows)
        gathered.square().sum().backward()
        assert torch.equal(gathered, rows)
        torch.testing.assert_close(rows.grad, 2 * rows.detach())
        for tensor in (torch.ones(3, device=device), torch.ones(3)):
            dist.all_reduce(tensor)
            dist.broadcast(tensor, src=0)
            assert tensor.tolist() == [1, 1, 1]
    finally:
        dist.destroy_process_group()


def test_a_fresh_process_group_is_gone_afterwards() -> None:
    assert ranks.world() == 1
