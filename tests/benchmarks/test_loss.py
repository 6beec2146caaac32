"""Mining and SupCon on 1024 x 256, beside pytorch-metric-learning's. Half a minute on one core:
`pytest -m benchmark -s tests/benchmarks/test_loss.py`.

The runs are interleaved, and the ratio is the median over pairs: the machine may be busy.
"""

import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor

from audioconfit import losses, mining

ROWS, DIM, CLASSES, ROUNDS = 1024, 256, 64, 15


def seconds(step: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    """Of one forward and backward pass."""
    began = time.perf_counter()
    step(rows.clone().requires_grad_()).backward()
    return time.perf_counter() - began


@pytest.mark.benchmark
def test_dense_masks_are_faster_than_index_lists() -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(ROWS, DIM, generator=draw), torch.randint(CLASSES, (ROWS,), generator=draw)
    miner, supcon = MultiSimilarityMiner(epsilon=0.1), SupConLoss(temperature=0.1)

    def ours(embeddings: Tensor) -> Tensor:
        return losses.supcon(embeddings, labels, miner=mining.multi_similarity)

    def theirs(embeddings: Tensor) -> Tensor:
        unit = F.normalize(embeddings, dim=1)
        return supcon(unit, labels, miner(unit, labels))

    assert ours(rows).item() == pytest.approx(theirs(rows).item(), rel=1e-5)
    pairs = [(seconds(ours, rows), seconds(theirs, rows)) for _ in range(ROUNDS)]
    ratio = median(their / our for our, their in pairs)
    print(f"\nours {1000 * median(our for our, _ in pairs):.0f} ms, pytorch-metric-learning", end=" ")
    print(f"{1000 * median(their for _, their in pairs):.0f} ms: {ratio:.1f} times as fast")
    assert ratio > 1.5
