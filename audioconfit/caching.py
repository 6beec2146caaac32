"""Gradient caching: the gradient of a loss over a batch that does not fit the memory (Gao et al. 2021, arXiv
2101.06983).

A contrastive loss needs all rows of a batch at once, but only their embeddings. So: embed the batch piece by piece
without keeping activations, take the loss and its gradient with respect to the embeddings, then embed each piece
again, under the same random state, and push its share of that gradient through. Exact, at the price of a second
forward pass (tests/benchmarks/README.md).
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audioconfit import memory, randomness
from audioconfit.batches import Batch

Embed = Callable[[Batch], Float[Tensor, "batch dim"]]
Loss = Callable[[Float[Tensor, "batch dim"], Tensor], Float[Tensor, ""]]
Scale = Callable[[Float[Tensor, ""]], Float[Tensor, ""]]

# What a forward pass on the CPU may keep for its backward. A constant and not what happens to be free, so that equal
# recipes take equal steps on one machine.
CPU_ACTIVATION_BYTES = 4 << 30
# The share of what this process may take of a GPU that the trial leaves for the loss itself and for fragmentation.
GPU_HEADROOM = 0.05


def backward(
    embed: Embed, loss: Loss, batch: Batch, *, micro_batch: int, scaled: Scale = lambda value: value
) -> Float[Tensor, ""]:
    """Add the gradient of scaled(loss(embed(batch))) to the weights', keeping activations of `micro_batch` rows at a
    time. Returns the loss as it was before it was scaled.
    """
    if micro_batch >= len(batch):
        value = loss(embed(batch), batch.labels)
        scaled(value).backward()
        return value.detach()

    device, pieces = batch.waveforms.device, batch.pieces(micro_batch)
    states, parts = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(randomness.state(device))
            parts.append(embed(piece))
    embeddings = torch.cat(parts).requires_grad_()
    value = loss(embeddings, batch.labels)
    (gradient,) = torch.autograd.grad(scaled(value), embeddings)
    for piece, state, share in zip(pieces, states, gradient.split(micro_batch), strict=True):
        randomness.restore(state, device)
        embed(piece).backward(share)
    return value.detach()


def rows_that_fit(embed: Embed, heaviest: Batch, parameters: Iterable[nn.Parameter]) -> int:
    """How many rows of the heaviest batch fit at once; tried out, with gradients and random state left as they were.

    On a GPU: forward and backward with half as many rows until they fit, beside room for Adam's two moments. On the
    CPU: by what one row keeps for its backward, within CPU_ACTIVATION_BYTES. Raises torch.OutOfMemoryError where not
    even one row fits.
    """
    device, weights = heaviest.waveforms.device, list(parameters)
    trained = [parameter for parameter in weights if parameter.requires_grad]
    with randomness.kept(device):
        if device.type != "cuda":
            per_row = max(1, _kept_bytes(embed, heaviest.pieces(1)[0], weights))
            return max(1, min(len(heaviest), CPU_ACTIVATION_BYTES // per_row))
        rows = len(heaviest)
        while not _fits(embed, heaviest.pieces(rows)[0], trained):
            if rows == 1:
                raise torch.OutOfMemoryError(
                    f"Not even one chunk of {heaviest.waveforms.shape[1]} samples fits the memory of {device}; "
                    f"choose a smaller chunk_seconds."
                )
            rows = -(-rows // 2)
        return rows


def _fits(embed: Embed, batch: Batch, trained: list[nn.Parameter]) -> bool:
    try:
        _try_out(embed, batch, trained)
        fits = True
    except RuntimeError as error:
        if not memory.ran_out(error):
            raise
        fits = False
    # Not in a finally: while the error lives, its frames hold what should be freed.
    for parameter in trained:
        parameter.grad = None
    torch.cuda.empty_cache()
    return fits


def _try_out(embed: Embed, batch: Batch, trained: list[nn.Parameter]) -> None:
    device = batch.waveforms.device
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in trained)
    headroom = int(GPU_HEADROOM * memory.limit_bytes(device))
    room = torch.empty(moments + headroom, dtype=torch.uint8, device=device)
    embed(batch).sum().backward()
    del room  # held until here


def _kept_bytes(embed: Embed, batch: Batch, parameters: list[nn.Parameter]) -> int:
    """Bytes of activations that a forward pass keeps for its backward: not the weights, which are there anyway, those
    that are not trained too.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = embed(batch)  # held until counted, so that no storage is freed and its address taken by another
    del output
    return sum(kept.values())
