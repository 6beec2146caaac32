"""Figures: confusion matrices, convergence (Figure 2), maps of confused classes (Figure 3). Draws what others computed.

The only importer of matplotlib, without pyplot and its global state: workers draw as well. Each function writes one
file, whose suffix (.png, .pdf, .svg) is its format, under a temporary name first.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from audioconfit import files
from audioconfit.errors import InputError

INK, FAINT, PAPER = "#1d2733", "#d5dbe1", "#ffffff"
# Okabe and Ito's colours, which the colour-blind tell apart too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
BLUES = LinearSegmentedColormap.from_list("blues", [PAPER, "#b9d6ea", "#4b9ac9", "#0b5a94", "#06325a"])
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a class may be called a$b$
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "audioconfit",  # the same figure is the same file
}

CELLS_WITH_NUMBERS = 20  # classes; beyond, a cell is too small to read
CELLS_WITH_NAMES = 60


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], path: Path, *, title: str = "") -> None:
    """Clips by true class (rows) and predicted class (columns); the colour is the share of the true class.

    Up to 20 classes with the counts, up to 60 with the names, beyond with the mistakes as points and the worst of them
    by name. InputError: counts that are not classes x classes.
    """
    matrix = np.asarray(counts, dtype=float)
    if matrix.shape != (len(classes), len(classes)):
        raise InputError(f"{len(classes)} classes need {len(classes)} rows and columns of counts, not {matrix.shape}.")
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    with matplotlib.rc_context(STYLE):
        draw = _matrix_of_names if len(classes) <= CELLS_WITH_NAMES else _matrix_of_points
        figure = draw(matrix, shares, classes)
        correct = matrix.trace() / max(matrix.sum(), 1)
        figure.suptitle(title or f"{correct:.1%} of {matrix.sum():.0f} clips right", x=0.01, ha="left", weight="bold")
        _write(figure, path)


def _matrix_of_names(matrix: np.ndarray, shares: np.ndarray, classes: Sequence[str]) -> Figure:
    count = len(classes)
    side = max(3.2, 0.42 * count if count <= CELLS_WITH_NUMBERS else 0.19 * count) + 1.4
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap=BLUES, vmin=0, vmax=1)
    size = 9 if count <= CELLS_WITH_NUMBERS else 7
    axes.set_xticks(range(count), classes, rotation=90 if count > 8 else 45, fontsize=size)
    axes.set_yticks(range(count), classes, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if count <= CELLS_WITH_NUMBERS:
        for row, column in zip(*matrix.nonzero(), strict=True):
            colour = PAPER if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def _matrix_of_points(matrix: np.ndarray, shares: np.ndarray, classes: Sequence[str]) -> Figure:
    """A single cell of 630 x 630 would be lost as a pixel; a point is not."""
    count = len(classes)
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(3, 1.3))
    rows, columns = (matrix * (1 - np.eye(count))).nonzero()
    order = np.argsort(shares[rows, columns])  # the worst on top
    rows, columns = rows[order], columns[order]
    colour = {"cmap": BLUES, "vmin": -0.2, "vmax": 1}
    axes.scatter(range(count), range(count), c=shares.diagonal(), s=5, marker="s", linewidths=0, **colour)
    axes.scatter(columns, rows, c=COLOURS[1], s=4 + 40 * shares[rows, columns], alpha=0.75, linewidths=0)
    axes.set(xlim=(-1, count), ylim=(count, -1), aspect="equal", xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(True)
    axes.set_title("mistakes (orange) beside the diagonal, larger where more of a class is lost", fontsize=8)

    worst = list(zip(rows[::-1][:12], columns[::-1][:12], strict=True))
    names = [f"{classes[row]} as {classes[column]}" for row, column in worst]
    beside.barh(range(len(worst)), [shares[cell] for cell in worst], color=COLOURS[1], height=0.7)
    beside.set_yticks(range(len(worst)), [name if len(name) < 34 else name[:31] + "..." for name in names], fontsize=7)
    beside.set(ylim=(11.5, -0.5), xlim=(0, 1))
    beside.xaxis.set_major_formatter(PercentFormatter(1))
    beside.tick_params(length=0)
    beside.set_title("most confused, share of the true class", fontsize=8)
    return figure


def convergence(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    path: Path,
    *,
    title: str = "",
    score: str = "validation accuracy",
) -> None:
    """Validation score by epoch, one line per name: the mean of its runs, in a band from the lowest to the highest.

    `curves`: name -> runs -> (epoch, score between 0 and 1). Where runs end at different epochs, the mean is over those
    that are still there. InputError: nothing to draw.
    """
    if not any(run for runs in curves.values() for run in runs):
        raise InputError("A convergence figure needs a curve with a point or more, and there is none.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (name, runs), colour in zip(curves.items(), itertools.cycle(COLOURS)):
            _line(axes, name, runs, colour)
        axes.set(xlabel="epoch", ylabel=score, ylim=(0, 1))
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(frameon=False, loc="lower right")
        _write(figure, path)


def _line(axes: Axes, name: str, runs: Sequence[Sequence[tuple[float, float]]], colour: str) -> None:
    by_epoch: dict[float, list[float]] = {}
    for epoch, value in itertools.chain.from_iterable(runs):
        by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    means = [float(np.mean(by_epoch[epoch])) for epoch in epochs]
    label = f"{name} ({len(runs)} runs)" if len(runs) > 1 else name
    axes.plot(epochs, means, color=colour, linewidth=1.8, marker="o", markersize=3, label=label)
    if len(runs) > 1:
        lowest, highest = ([bound(by_epoch[epoch]) for epoch in epochs] for bound in (min, max))
        axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.15, linewidth=0)


def layers(
    scores: Mapping[int | str, float], path: Path, *, chosen: int | str, score: str = "validation accuracy"
) -> None:
    """What a probe is worth by the layer that it reads; the one that was chosen stands out. InputError: no score."""
    if not scores:
        raise InputError("A figure of layers needs a score or more, and there is none.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.2, 0.5 * len(scores) + 1), 3.2), layout="constrained")
        axes = figure.subplots()
        names = [str(layer) for layer in scores]
        axes.bar(
            names, list(scores.values()), color=[COLOURS[1 if layer == chosen else 0] for layer in scores], width=0.7
        )
        axes.set(xlabel="layer that the probe reads", ylabel=score)
        axes.tick_params(length=0)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        _write(figure, path)


@dataclass(frozen=True)
class Map:
    """Clips on a plane and the name of each one's class; `caption` stands above the picture, such as a score."""

    points: Float[Tensor, "clips 2"]
    names: Sequence[str]
    caption: str = ""


def separability(maps: Mapping[str, Sequence[Map]], path: Path) -> None:
    """A row of maps per method, the same classes below each other: the paper's Figure 3. InputError: no map at all."""
    columns = max((len(row) for row in maps.values()), default=0)
    if columns == 0:
        raise InputError("A figure of separability needs a map or more, and there is none.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns + 0.3, 3.0 * len(maps) + 0.3), layout="constrained")
        grid = figure.subplots(len(maps), columns, squeeze=False)
        for (method, row), axes in zip(maps.items(), grid, strict=True):
            for shown, one in itertools.zip_longest(row, axes):
                _scatter(one, shown)
            axes[0].set_ylabel(method, weight="bold")
        _write(figure, path)


def _scatter(axes: Axes, shown: Map | None) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    if shown is None:
        return
    points, names = shown.points.cpu().numpy(), np.asarray(shown.names)
    for name, colour in zip(sorted(set(shown.names)), itertools.cycle(COLOURS)):
        mine = points[names == name]
        axes.scatter(mine[:, 0], mine[:, 1], s=14, color=colour, alpha=0.8, linewidths=0, label=name)
    axes.set_title(shown.caption, fontsize=8)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=2, handletextpad=0.1)


def _write(figure: Figure, path: Path) -> None:
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=160, metadata=dates)
