"""Gradients of two ranks summed in one message after the backward pass, as ranks.sum_gradients does, beside buckets of
25 MB that are sent while it still runs: `pytest -m benchmark -s tests/benchmarks/test_buckets.py`, a minute of two
cores.

wav2vec2-base's shape with random weights, 2 x 1 s on each rank, gloo, one thread each. Both give the same sums, bit for
bit. On 2 shared cores under loads of 14 and 23, 2026-11-28, times the buckets' time: 1.06 (0.95 to 1.59) and 0.89 (0.73
to 1.29) on the clock, 1.06 (1.01 to 1.20) and 1.00 (0.83 to 1.23) in CPU time, which is no gain. Only a machine with
several GPUs can say whether it is worth having.
"""

import socket
import statistics
import time
from pathlib import Path

import heading
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from audioconfit import ranks

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]

BUCKET_BYTES, ROUNDS, RANKS = 25 << 20, 7, 2


class Buckets:
    """Hands gradients to the other ranks as a backward pass makes them, last layers first, in one order everywhere."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(parameters):
            if sum(map(nn.Parameter.numel, self.buckets[-1])) * 4 + parameter.numel() * 4 > BUCKET_BYTES:
                self.buckets.append([])
            self.buckets[-1].append(parameter)
            parameter.register_post_accumulate_grad_hook(self.arrived)
        self.of = {parameter: number for number, bucket in enumerate(self.buckets) for parameter in bucket}
        self.missing: list[int] = []
        self.sent: list[tuple[Tensor, dist.Work]] = []

    def begin(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent = []

    def arrived(self, parameter: Tensor) -> None:
        if self.missing:
            self.missing[self.of[parameter]] -= 1
            while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
                self.send()

    def send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        for parameter in bucket:
            if parameter.grad is None:  # no part of this pass
                parameter.grad = torch.zeros_like(parameter)
        message = torch.cat([parameter.grad.reshape(-1) for parameter in bucket])
        self.sent.append((message, dist.all_reduce(message, async_op=True)))

    def finish(self) -> None:
        while len(self.sent) < len(self.buckets):
            self.send()
        for bucket, (message, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            parts = message.split([parameter.numel() for parameter in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        self.missing = []


def work(rank: int, port: int, file: str) -> None:
    import transformers

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(layerdrop=0.0, apply_spec_augment=False)).eval()
    parameters = list(model.parameters())
    buckets = Buckets(parameters)
    waveforms = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(rank))
    spent: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    sums: dict[bool, Tensor] = {}
    for number in range(ROUNDS + 1):
        for bucketed in (True, False) if number % 2 else (False, True):
            for parameter in parameters:
                parameter.grad = None
            dist.barrier()
            began = time.perf_counter(), time.process_time()
            if bucketed:
                buckets.begin()
            model(waveforms).last_hidden_state.square().mean().backward()
            if bucketed:
                buckets.finish()
            else:
                ranks.sum_gradients(parameters)
            spent[bucketed].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            sums[bucketed] = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    if rank == 0:
        torch.save({"spent": spent, "same": torch.equal(sums[True], sums[False])}, file)
    dist.destroy_process_group()


def test_buckets_beside_one_message(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(work, (port, str(tmp_path / "found")), RANKS, start_method="spawn")
    found = torch.load(tmp_path / "found")
    heading.show("Two gloo ranks, wav2vec2-base, 2 x 1 s each: one message / buckets")
    for column, what in enumerate(("on the clock", "CPU time")):
        one, many = ([row[column] for row in found["spent"][kind][1:]] for kind in (False, True))
        ratios = sorted(a / b for a, b in zip(one, many, strict=True))
        print(
            f"{what:<14} {statistics.median(one):.2f} / {statistics.median(many):.2f} s, "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    assert found["same"]
