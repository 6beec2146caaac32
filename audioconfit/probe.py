"""Probe: stage 2. A linear layer on the frozen features of the train clips.

Features are standardised by the training mean and deviation: their scale decides which learning rates work (unit-norm
features used raw reach 0.06 where standardised ones reach 0.62), so a searched rate would otherwise be a property of
the backbone.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from audioconfit import files, scores
from audioconfit.errors import InputError
from audioconfit.features import Features, mix
from audioconfit.recipe import Balance, Layer
from audioconfit.scores import Scores

PENALTIES = (1e0, 1e-1, 1e-2, 1e-3, 1e-4)  # strongest first: each solution starts the next search
BATCH_SIZE = 64  # of Adam

Alive = Callable[[], object]  # called many times a second while a probe is at work


def silent() -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Probe:
    """A linear classifier of embeddings.

    `thresholds` where clips carry label sets: a class is predicted where its logit is above its threshold. `layers`
    where there is an embedding per layer: it reads their mean by these weights.
    """

    classes: tuple[str, ...]
    weight: Float[Tensor, "classes dim"]  # of standardised embeddings, of the mean of the layers where there are layers
    bias: Float[Tensor, "classes"]
    mean: Float[Tensor, "dim"]
    deviation: Float[Tensor, "dim"]
    thresholds: Float[Tensor, "classes"] | None = None
    layers: Float[Tensor, "layers"] | None = None

    def logits(self, embeddings: Float[Tensor, "clips *layers dim"]) -> Float[Tensor, "clips classes"]:
        """The largest one is the prediction; for label sets each above 0 is (the thresholds are taken off)."""
        logits = self._linear(embeddings)
        return logits if self.thresholds is None else logits - self.thresholds

    def probabilities(self, embeddings: Float[Tensor, "clips *layers dim"]) -> Float[Tensor, "clips classes"]:
        """Softmax; for label sets the sigmoid of each class, before thresholds."""
        return self._linear(embeddings).softmax(1) if self.thresholds is None else self._linear(embeddings).sigmoid()

    def predict(self, embeddings: Float[Tensor, "clips *layers dim"]) -> list[tuple[str, ...]]:
        """The labels of each clip: one, or for label sets none to all."""
        logits = self.logits(embeddings)
        if self.thresholds is None:
            return [(self.classes[number],) for number in logits.argmax(1).tolist()]
        return [tuple(compress(self.classes, above)) for above in (logits > 0).tolist()]

    def score(self, side: Features) -> Scores:
        """What it is worth on these clips."""
        return scores.score(side.labels, self.logits(side.embeddings), self.classes)

    def with_class(self, name: str, embeddings: Float[Tensor, "clips *layers dim"]) -> "Probe":
        """The probe with one class more, known from these clips alone and without training: its row is their mean, as
        long as the other rows are on average, its bias the mean of theirs (imprinted weights; Qi, Brown and Lowe 2018,
        "Low-shot learning with imprinted weights", without normalising each embedding).
        """
        mixed = embeddings if self.layers is None else mix(embeddings, self.layers)
        row = F.normalize(((mixed - self.mean) / self.deviation).mean(0), dim=0) * self.weight.norm(dim=1).mean()
        weight, bias = torch.cat([self.weight, row[None]]), torch.cat([self.bias, self.bias.mean()[None]])
        return replace(self, classes=(*self.classes, name), weight=weight, bias=bias)

    def folded(self) -> tuple[Float[Tensor, "classes dim"], Float[Tensor, "classes"]]:
        """Weight and bias of embeddings as they are: the standardisation is inside, thresholds are not."""
        weight = self.weight.double() / self.deviation.double()
        return weight.float(), (self.bias.double() - weight @ self.mean.double()).float()

    def save(self, file: Path) -> None:
        """As safetensors, the classes in its metadata."""
        tensors = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "deviation": self.deviation}
        optional = {"thresholds": self.thresholds, "layers": self.layers}
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        with files.whole(file) as temporary:
            save_file(tensors, temporary, metadata={"classes": json.dumps(self.classes)})

    @classmethod
    def load(cls, file: Path) -> "Probe":
        """What `save` wrote."""
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (no mapping)
            return cls(classes=tuple(json.loads(stored.metadata()["classes"])), **tensors)

    def _linear(self, embeddings: Tensor) -> Tensor:
        mixed = embeddings if self.layers is None else mix(embeddings, self.layers)
        return F.linear((mixed - self.mean) / self.deviation, self.weight, self.bias)


def of_head(head: nn.Linear, classes: Sequence[str], *, multi_label: bool) -> Probe:
    """A trained classification head as a probe: it reads embeddings as they are."""
    weight, bias = head.weight.detach().float().cpu(), head.bias.detach().float().cpu()
    dim = weight.shape[1]
    thresholds = torch.zeros(len(classes)) if multi_label else None
    return Probe(tuple(classes), weight, bias, torch.zeros(dim), torch.ones(dim), thresholds)


def fit(
    train: Features,
    valid: Features,
    *,
    classes: Sequence[str],
    lr: float,
    epochs: int = 100,
    kind: str = "adam",
    seed: int = 0,
    layer: Layer = "last",
    balance: Balance = "none",
    thresholds: Sequence[float] | None = None,
    metric: str | None = None,
    device: torch.device | str = "cpu",
    alive: Alive = silent,
) -> Probe:
    """The linear probe of these features, the same for the same seed; computed on `device`, handed over on the CPU.
    `alive` is called after each of its steps.

    kind "adam": Adam on batches drawn from `seed`, its rate decaying from `lr` to 0 along a half cosine. "lbfgs": the
    minimum of the mean cross-entropy + penalty / 2 |weight|^2 for each of PENALTIES, and of these the best on
    validation by `metric`; lr, epochs and seed play no part. Label sets (0/1 rows) take a sigmoid per
    class, and `thresholds`, or those with the best F1 on validation.

    Of features of every layer it reads the one that `layer` names, their mean, or their mean by weights that are
    learned first (`weigh_layers`).

    `balance` makes classes of unlike size count alike: "weights" in the loss (`class_weights`), "sampling" by drawing
    as many clips as there are, each with a chance in proportion to its class' weight.
    InputError: a layer that the features do not have; sampling of label sets, or for lbfgs.
    """
    if kind not in ("adam", "lbfgs"):
        raise InputError(f"Unknown probe {kind!r}; choose adam or lbfgs.")
    check_balance(balance, kind, multi_label=train.labels.ndim == 2)
    read = None  # the weights of the layers
    if train.embeddings.ndim == 3:
        how: dict[str, Any] = {"classes": classes, "lr": lr, "epochs": epochs, "seed": seed, "balance": balance}
        weigh = partial(weigh_layers, train, **how, device=device, alive=alive)
        read = weigh() if layer == "weighted" else layer_weights(layer, train.embeddings.shape[1])
        train, valid = train.mixed(read), valid.mixed(read)
    mean, deviation = _moments(train.embeddings)
    rows, labels = ((train.embeddings - mean) / deviation).to(device), train.labels.to(device)
    sides = _Sides(labels, len(classes), balance)
    with torch.enable_grad():
        adam = kind == "adam"
        layers = [_adam(rows, sides, lr, epochs, seed, alive)] if adam else list(_lbfgs(rows, sides, alive))
    probes = [
        Probe(tuple(classes), weight.float().cpu(), bias.float().cpu(), mean, deviation) for weight, bias in layers
    ]
    best = max(probes, key=lambda probe: _on(valid, probe, metric))
    if train.labels.ndim == 1:
        return replace(best, layers=read)
    if thresholds is None:
        return replace(best, thresholds=best_thresholds(best.logits(valid.embeddings), valid.labels), layers=read)
    return replace(best, thresholds=torch.tensor(thresholds), layers=read)


def layer_weights(layer: Layer, count: int) -> Float[Tensor, "layers"]:
    """The weights by which a probe reads one of `count` layers, or their mean. InputError: there is no such layer."""
    if layer == "mean":
        return torch.full((count,), 1 / count)
    number = count - 1 if layer == "last" else layer
    if not isinstance(number, int) or not 0 <= number < count:
        raise InputError(f"There is no layer {layer}: the backbone's are 0 to {count - 1}.")
    return F.one_hot(torch.tensor(number), count).float()


def weigh_layers(
    train: Features,
    *,
    classes: Sequence[str],
    lr: float,
    epochs: int,
    seed: int,
    balance: Balance = "none",
    device: torch.device | str = "cpu",
    alive: Alive = silent,
) -> Float[Tensor, "layers"]:
    """How much each layer tells: a softmax over the layers, learned with a linear layer on their weighted mean (SUPERB,
    Yang et al. 2021) by Adam, from equal weights on. The linear layer is thrown away.
    """
    rows = train.embeddings - train.embeddings.mean(0)
    rows, labels = (rows / _moments(train.embeddings.mean(1))[1]).to(device), train.labels.to(device)
    with torch.enable_grad():
        found = _adam_of_layers(rows, _Sides(labels, len(classes), balance), lr, epochs, seed, alive)
    return found.softmax(0).float().cpu()


def check_balance(balance: Balance, kind: str, *, multi_label: bool) -> None:
    """InputError where this probe cannot be balanced this way."""
    if balance == "sampling" and (multi_label or kind == "lbfgs"):
        why = "clips carry several labels" if multi_label else "probe=lbfgs reads all clips at once"
        raise InputError(
            f"Clips cannot be drawn by class (probe_balance=sampling), for {why}; choose probe_balance=weights."
        )


def class_weights(
    labels: Int[Tensor, "clips"] | Float[Tensor, "clips classes"], count: int
) -> Float[Tensor, "classes"]:
    """What a clip of each of `count` classes counts, so that all classes count alike: n / (k n_c), with n clips, n_c of
    the class, and k classes that have any. Of label sets what a clip that carries the class counts in its sigmoid's
    loss, so that those with and without it count alike: (n - n_c) / n_c, neither below one clip.
    """
    if labels.ndim == 2:
        carry = labels.sum(0)
        return (len(labels) - carry).clamp(min=1) / carry.clamp(min=1)
    sizes = torch.bincount(labels, minlength=count).float()
    return len(labels) / ((sizes > 0).sum() * sizes.clamp(min=1)) * (sizes > 0)


class _Sides:
    """The training labels, and how their classes are balanced."""

    def __init__(self, labels: Tensor, count: int, balance: Balance) -> None:
        self.labels, self.count = labels, count
        weights = None if balance == "none" else class_weights(labels, count)
        self.weights = weights if balance == "weights" else None
        self.chances = None if weights is None or balance == "weights" else weights[labels].cpu()

    def loss(self, logits: Tensor, batch: Tensor | slice = slice(None)) -> Tensor:
        """The mean cross-entropy of a batch of clips, weighted by class."""
        return _cross_entropy(logits, self.labels[batch], self.weights)

    def order(self, draw: torch.Generator) -> Tensor:
        """The clips of an epoch: each once, or as the chances have it."""
        if self.chances is None:
            return torch.randperm(len(self.labels), generator=draw)
        return torch.multinomial(self.chances, len(self.labels), replacement=True, generator=draw)


def _moments(embeddings: Float[Tensor, "clips dim"]) -> tuple[Float[Tensor, "dim"], Float[Tensor, "dim"]]:
    """Mean and deviation. A dimension that never changes says nothing; its rounding errors should not either."""
    deviation = embeddings.std(0, unbiased=False)
    return embeddings.mean(0), deviation.where(deviation > 1e-6 * deviation.max(), torch.ones(()))


Linear = tuple[Float[Tensor, "classes dim"], Float[Tensor, "classes"]]


def _adam(rows: Tensor, sides: _Sides, lr: float, epochs: int, seed: int, alive: Alive) -> Linear:
    weight, bias = _zeros(rows, sides.count)

    def loss(batch: Tensor) -> Tensor:
        return sides.loss(F.linear(rows[batch], weight, bias), batch)

    _descend([weight, bias], loss, sides, lr, epochs, seed, alive)
    return weight.detach(), bias.detach()


def _adam_of_layers(
    rows: Float[Tensor, "clips layers dim"],
    sides: _Sides,
    lr: float,
    epochs: int,
    seed: int,
    alive: Alive,
) -> Float[Tensor, "layers"]:
    """The logits of the layers' weights."""
    weight, bias = _zeros(rows[:, 0], sides.count)
    layers = torch.zeros(rows.shape[1], device=rows.device, requires_grad=True)

    def loss(batch: Tensor) -> Tensor:
        return sides.loss(F.linear(mix(rows[batch], layers.softmax(0)), weight, bias), batch)

    _descend([weight, bias, layers], loss, sides, lr, epochs, seed, alive)
    return layers.detach()


def _descend(
    parameters: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    sides: _Sides,
    lr: float,
    epochs: int,
    seed: int,
    alive: Alive,
) -> None:
    """Adam on batches of rows, its rate decaying along a half cosine."""
    device = parameters[0].device
    optimiser = torch.optim.Adam(parameters, lr=lr, fused=device.type in ("cpu", "cuda"))
    steps = epochs * -(-len(sides.labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in sides.order(draw).to(device).split(BATCH_SIZE):
            optimiser.zero_grad()
            loss(batch).backward()
            optimiser.step()
            schedule.step()
            alive()


def _lbfgs(rows: Tensor, sides: _Sides, alive: Alive) -> Iterator[Linear]:
    """One layer per penalty, in float64: the line search stalls on float32's rounding long before the minimum."""
    rows = rows.double()
    weight, bias = _zeros(rows, sides.count)
    for penalty in PENALTIES:
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=500, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def objective(penalty: float = penalty, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = sides.loss(F.linear(rows, weight, bias)) + penalty / 2 * weight.square().sum()
            value.backward()
            alive()
            return value

        optimiser.step(objective)
        yield weight.detach().clone(), bias.detach().clone()


def _zeros(rows: Tensor, classes: int) -> Linear:
    """The problem is convex: where it starts decides nothing."""
    weight = torch.zeros(classes, rows.shape[1], dtype=rows.dtype, device=rows.device, requires_grad=True)
    return weight, torch.zeros(classes, dtype=rows.dtype, device=rows.device, requires_grad=True)


def _on(valid: Features, probe: Probe, metric: str | None) -> tuple[float, float]:
    """How good a probe is on validation: its score, and of equal scores the smaller loss."""
    loss = _cross_entropy(probe.logits(valid.embeddings), valid.labels)
    return probe.score(valid).under(metric), -loss.item()


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Float[Tensor, "classes"] | None = None) -> Tensor:
    """Of the clips at hand: not losses.cross_entropy, which is a share of what several ranks have. With `weights` each
    clip's term counts as much as its class', and the sum is divided by the number of clips.
    """
    if weights is not None:
        weights = weights.to(logits.dtype)
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weights)
    if weights is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, weight=weights, reduction="sum") / len(labels)


def best_thresholds(
    logits: Float[Tensor, "clips classes"], labels: Float[Tensor, "clips classes"]
) -> Float[Tensor, "classes"]:
    """Per class, the logit above which predicting it gives the best F1 on these clips; 0 for a class without clips."""
    return torch.stack([_threshold(*column) for column in zip(logits.T, labels.T, strict=True)])


def _threshold(logits: Float[Tensor, "clips"], truth: Float[Tensor, "clips"]) -> Float[Tensor, ""]:
    if not truth.any():
        return logits.new_zeros(())
    ordered, order = logits.sort(descending=True)
    predicted = torch.arange(1, len(ordered) + 1)
    f1 = 2 * truth[order].cumsum(0) / (predicted + truth.sum())
    below = torch.cat([ordered[1:], ordered[-1:] - 1])
    f1 = f1.where(below < ordered, -1.0)  # a threshold cannot part equal logits
    best = f1.argmax()
    return (ordered[best] + below[best]) / 2
