"""Representation: the analyses of the paper's section 3.4 on test embeddings, which explain a model and select none.

Anisotropy, the dimensions that cosine similarity rests on (Table 3), and how well the most confused classes are told
apart (Figure 3). Drawing is in figures.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit.errors import InputError


def anisotropy(embeddings: Float[Tensor, "clips dim"]) -> float:
    """The mean cosine similarity of all pairs of different rows: 0 where they point everywhere, 1 where all point one
    way.

    Exact without the pairs: (|sum of unit vectors|^2 - n) / (n (n - 1)).
    """
    return float(_contributions(embeddings).sum())


@dataclass(frozen=True)
class Contribution:
    """What each dimension adds to the mean cosine similarity (Timkey and van Schijndel 2021, equations 2 to 4)."""

    anisotropy: float  # what the shares are parts of: near 0 they mean little
    shares: tuple[float, ...]  # largest first; they add up to 1, and single ones may be negative

    def top(self, count: int) -> float:
        """The share of the `count` largest dimensions together: the upper half of Table 3."""
        return sum(self.shares[:count])

    def dimensions(self, share: float) -> int:
        """How many dimensions, largest first, make up a share (0.9: 90 per cent): the lower half of Table 3."""
        reached = torch.tensor(self.shares, dtype=torch.float64).cumsum(dim=0) >= share - 1e-12
        return int(reached.double().argmax()) + 1


def contribution(embeddings: Float[Tensor, "clips dim"]) -> Contribution:
    """CC_d(x, y) = x_d y_d / (|x| |y|), averaged over the pairs of different rows, as shares of their sum.

    InputError where the anisotropy is not above 0: there is nothing that dimensions could have a share of.
    """
    contributions = _contributions(embeddings)
    total = float(contributions.sum())
    if total <= 0:
        raise InputError(
            f"The mean cosine similarity is {total:.3g}, so dimensions have no shares of it; report it alone."
        )
    return Contribution(total, tuple((contributions / total).sort(descending=True).values.tolist()))


def _contributions(embeddings: Float[Tensor, "clips dim"]) -> Float[Tensor, "dim"]:
    """Per dimension, the mean of CC_d over the pairs i != j: ((sum of u_d)^2 - sum of u_d^2) / (n (n - 1))."""
    count = len(embeddings)
    if count < 2:
        raise InputError(f"Cosine similarity needs two embeddings or more, not {count}.")
    units = F.normalize(embeddings.double(), dim=1)
    return (units.sum(dim=0).square() - units.square().sum(dim=0)) / (count * (count - 1))


def most_confused(
    confusion: Int[Tensor, "classes classes"] | Sequence[Sequence[int]], *, groups: int = 3, size: int = 3
) -> list[tuple[int, ...]]:
    """The groups of classes that are mistaken for each other most, worst first; no class is in two.

    A group starts with the pair that has the largest share of its clips exchanged, and grows by the class that
    exchanges most with it. Fewer groups where nothing is left that is confused.
    """
    counts = torch.as_tensor(confusion, dtype=torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    exchanged = (shares + shares.T).fill_diagonal_(0)
    found: list[tuple[int, ...]] = []
    while len(found) < groups and exchanged.max() > 0:
        group = [int(index) for index in torch.unravel_index(exchanged.argmax(), exchanged.shape)]
        while len(group) < size:
            with_group = exchanged[group].sum(dim=0)
            with_group[group] = 0
            if with_group.max() == 0:
                break
            group.append(int(with_group.argmax()))
        exchanged[group] = 0
        exchanged[:, group] = 0
        found.append(tuple(sorted(group)))
    return found


def silhouette(embeddings: Float[Tensor, "clips dim"], labels: Int[Tensor, "clips"]) -> float:
    """Separability as a number (Rousseeuw 1987, cosine distance): 1 where classes lie far apart, 0 where they mix.

    Per clip (b - a) / max(a, b), with a the mean distance to its own class and b that to the nearest other one; a clip
    alone in its class counts 0. InputError: fewer than two classes.
    """
    _, own, sizes = labels.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise InputError(f"Separability needs clips of two classes or more, not of {len(sizes)}.")
    units = F.normalize(embeddings.double(), dim=1)
    distances = (1 - units @ units.T).fill_diagonal_(0)
    sums = distances @ F.one_hot(own).double()  # from each clip to each class
    mine = F.one_hot(own).bool()
    within = sums[mine] / (sizes[own] - 1).clamp(min=1)
    between = (sums / sizes).masked_fill(mine, torch.inf).amin(dim=1)
    widths = (between - within) / torch.maximum(within, between).clamp(min=1e-12)
    return float(widths.masked_fill(sizes[own] == 1, 0).mean())


def project(
    embeddings: Float[Tensor, "clips dim"], *, perplexity: float = 15.0, steps: int = 750
) -> Float[Tensor, "clips 2"]:
    """A map of the clips on which neighbours by cosine stay neighbours: exact t-SNE (van der Maaten and Hinton 2008).

    The paper draws UMAP, whose package is larger than all of this; both show clusters, and distances between clusters
    mean nothing in either. Starts from the principal components, so the same embeddings give the same map.
    """
    units = F.normalize(embeddings.double(), dim=1)
    count = len(units)
    if count < 4:
        raise InputError(f"A map needs four clips or more, not {count}.")
    near = _neighbourhoods(units, min(perplexity, (count - 1) / 3))
    layout = _principal_components(units)
    velocity, gains = torch.zeros_like(layout), torch.ones_like(layout)
    rate = max(count / 48, 50.0)  # Belkina et al. 2019, for an exaggeration of 12
    for step in range(steps):
        exaggeration, momentum = (12.0, 0.5) if step < steps // 3 else (1.0, 0.8)
        closeness = 1 / (1 + torch.cdist(layout, layout).square()).fill_diagonal_(torch.inf)
        force = (exaggeration * near - closeness / closeness.sum()) * closeness
        gradient = 4 * (force.sum(dim=1, keepdim=True) * layout - force @ layout)
        gains = torch.where(gradient.sign() == velocity.sign(), gains * 0.8, gains + 0.2).clamp(min=0.01)
        velocity = momentum * velocity - rate * gains * gradient
        layout = layout + velocity
    return (layout - layout.mean(dim=0)).float()


def _neighbourhoods(units: Float[Tensor, "clips dim"], perplexity: float) -> Float[Tensor, "clips clips"]:
    """The probability that two clips are neighbours; each has `perplexity` of them, by bisection of its bandwidth."""
    distances = torch.cdist(units, units).square().fill_diagonal_(torch.inf)
    low, high = torch.full((len(units), 1), -20.0).double(), torch.full((len(units), 1), 20.0).double()
    for _ in range(60):
        middle = (low + high) / 2
        chance = torch.softmax(-distances * middle.exp(), dim=1)
        entropy = torch.special.entr(chance).sum(dim=1, keepdim=True)
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return (chance + chance.T) / (2 * len(units))


def _principal_components(units: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips 2"]:
    """The first two, tiny, each with its sign such that the largest weight is positive."""
    centred = units - units.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    largest = directions[:2].abs().argmax(dim=1, keepdim=True)
    components = centred @ (directions[:2] * directions[:2].gather(1, largest).sign()).T
    return 1e-4 * components / components.std(dim=0).clamp(min=1e-12)
