"""Probes one by one, as a search asks for them, and all rates and seeds as one stack: `pytest -m benchmark -s
tests/benchmarks/test_probes_at_once.py`, half a minute of one core.

The stack is a product of matrices per step for all probes together, with Adam written out, for each probe has a rate of
its own. In CPU time, interleaved. It comes to the same probes, but not to the same bits (another order of adding up):
the search goes on fitting one by one. Optuna asks for a rate only after it has heard of the ones before, besides.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import heading
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audioconfit import probe
from audioconfit.features import Features
from audioconfit.probe import BATCH_SIZE

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800), pytest.mark.usefixtures("one_thread")]
RATES, SEEDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0, 1, 2)
PROBES = [(rate, seed) for rate in RATES for seed in SEEDS]
SIZES = {"EmoDB, a packaged backbone": (249, 192, 7), "a larger task, a base model": (2000, 768, 50)}
# EmoDB's epochs are those of a recipe; the larger task would take minutes with them and has a tenth.
EPOCHS = {"EmoDB, a packaged backbone": 100, "a larger task, a base model": 10}
ROUNDS = 3


def side(clips: int, dim: int, classes: int) -> Features:
    """Clouds of points that overlap."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(clips) % classes
    centres = torch.randn(classes, dim, generator=draw)
    rows = centres[labels] + 4 * torch.randn(clips, dim, generator=draw)
    return Features(rows, tuple(map(str, range(clips))), labels)


def one_by_one(train: Features, classes: int, epochs: int) -> Tensor:
    """Weights of all probes."""
    names = tuple(map(str, range(classes)))
    found = [probe.fit(train, train, classes=names, lr=rate, seed=seed, epochs=epochs) for rate, seed in PROBES]
    return torch.stack([one.weight for one in found])


def at_once(train: Features, classes: int, epochs: int) -> Tensor:
    """The same from one stack."""
    mean, deviation = probe._moments(train.embeddings)
    rows, labels = (train.embeddings - mean) / deviation, train.labels
    count, (clips, dim) = len(PROBES), rows.shape
    weight = torch.zeros(count, dim + 1, classes, requires_grad=True)  # the last row is the bias
    rows = torch.cat([rows, torch.ones(clips, 1)], dim=1)
    rates = torch.tensor([rate for rate, _ in PROBES])[:, None, None]
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    draws = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    steps, step = epochs * -(-clips // BATCH_SIZE), 0
    for _ in range(epochs):
        order = torch.stack([torch.randperm(clips, generator=draw) for draw in draws]).repeat(len(RATES), 1)
        for batch in order.split(BATCH_SIZE, dim=1):
            logits = rows[batch] @ weight
            loss = F.cross_entropy(logits.flatten(0, 1), labels[batch].flatten(), reduction="sum") / batch.shape[1]
            (gradient,) = torch.autograd.grad(loss, weight)
            now = rates * (1 + math.cos(math.pi * step / steps)) / 2
            step += 1
            with torch.no_grad():
                first.lerp_(gradient, 0.1)
                second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                size = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
                weight -= now / (1 - 0.9**step) * first / size
    return weight.detach()[:, :-1].transpose(1, 2)


def cpu_seconds(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def test_a_stack_of_probes() -> None:
    heading.show(f"{len(PROBES)} probes: {len(RATES)} rates x {len(SEEDS)} seeds, CPU seconds of one core")
    for name, (clips, dim, classes) in SIZES.items():
        train, ratios, times = side(clips, dim, classes), [], []
        for _ in range(ROUNDS):
            alone, expected = cpu_seconds(partial(one_by_one, train, classes, EPOCHS[name]))
            together, found = cpu_seconds(partial(at_once, train, classes, EPOCHS[name]))
            ratios.append(alone / together)
            times.append((alone, together))
        one, stack = (statistics.median(column) for column in zip(*times, strict=True))
        off = ((found - expected).norm() / expected.norm()).item()
        same = "the same bits" if torch.equal(found, expected) else f"weights {off:.0e} apart"
        print(f"{name} ({clips} x {dim}, {classes} classes, {EPOCHS[name]} epochs): one by one {one:.2f}, at once")
        print(f"  {stack:.2f}: {statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f}); {same}")
        assert off < 1e-2
        assert statistics.median(ratios) > 1
