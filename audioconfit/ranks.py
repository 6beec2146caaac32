"""Ranks: what several workers of one training run tell each other. Without a process group there is one rank and
every call is free.

A step on W ranks is the step of one worker on the whole batch: `gather` brings every rank's rows together with their
gradient, each rank computes the terms of its own rows, and `sum_gradients` adds the ranks' shares up.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn


def world() -> int:
    """How many ranks train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if world() > 1 else 0


def gather(rows: Shaped[Tensor, "mine ..."]) -> Shaped[Tensor, "all ..."]:
    """Every rank's rows, in rank order, with gradient: what any rank's loss says about a row reaches the rank that
    owns it.

    Ranks may hold different numbers of rows (a batch need not divide by the number of ranks).
    """
    return rows if world() == 1 else _Gather.apply(rows)


def first_row(mine: int) -> int:
    """Where this rank's `mine` rows begin among all the gathered ones."""
    return 0 if world() == 1 else sum(_row_counts(mine)[: rank()])


def total(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    if world() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value.detach()


def merged(rows: Tensor) -> Tensor:
    """Rows of which each rank has filled in some and left the others 0: all of them, on every rank, bit for bit."""
    return rows if world() == 1 else total(rows.to(_wire())).to(rows.device)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add every rank's gradient up, in place. A sum and no mean: each rank's loss is already its share of the global
    mean.
    """
    if world() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:  # LayerDrop may skip a layer on one rank and not on another
            parameter.grad = torch.zeros_like(parameter)
    # One message instead of one per parameter: small encoders are bound by latency.
    message = torch.cat([parameter.grad.reshape(-1) for parameter in trained if parameter.grad is not None])
    dist.all_reduce(message)
    for parameter, part in zip(trained, message.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def agree(answer: bool) -> bool:
    """Rank 0's answer, on every rank."""
    if world() == 1:
        return answer
    flag = torch.tensor([answer], dtype=torch.uint8, device=_wire())
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def collect(value: Any) -> list[Any]:
    """One small picklable value per rank, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with those of rank 0, so that all ranks start from the same weights."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def _row_counts(mine: int) -> list[int]:
    counts = torch.empty(world(), dtype=torch.int64, device=_wire())
    dist.all_gather_into_tensor(counts, torch.tensor([mine], device=_wire()))
    return counts.tolist()


def _wire() -> torch.device:
    """Where small messages travel: on the CPU where the group can, so that a flag does not wait for the accelerator's
    queue.
    """
    return torch.device("cpu" if "gloo" in str(dist.get_backend_config()) else "cuda")


class _Gather(torch.autograd.Function):
    """all_gather of rows whose backward sums over ranks what each rank's loss says about this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = _row_counts(len(rows))
        ctx.rows = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        # Collectives want equal sizes: short ranks pad, and the padding is cut off again.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.rows]
