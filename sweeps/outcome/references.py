"""Public results of the untouched base models, to be read beside a user's own table and never without their protocol:
several of them have speakers or sources on both sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One published row: accuracy in per cent by backbone. `shared`: what stands in train and in test."""

    dataset: str
    source: str
    protocol: str
    shared: str
    accuracies: Mapping[str, float]


_BASES = ("wav2vec2", "hubert", "wavlm")


def _row(dataset: str, source: str, protocol: str, shared: str, *accuracies: float) -> Reference:
    return Reference(dataset, source, protocol, shared, dict(zip(_BASES, accuracies, strict=True)))


def note(dataset: str) -> str:
    """The dataset's rows in Markdown, each with source, protocol and what both sides share; "" where there is none."""
    rows = [row for row in PUBLISHED if row.dataset == dataset]
    if not rows:
        return ""
    head = ["Published for the untouched base models (accuracy, per cent); compare with care:", ""]
    table = [f"| source | protocol | train and test share | {' | '.join(_BASES)} |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(f"{row.accuracies[name]:.1f}" for name in _BASES)
        table.append(f"| {row.source} | {row.protocol} | {row.shared} | {numbers} |")
    return "\n".join([*head, *table])


PUBLISHED: Sequence[Reference] = (
    _row(
        "esc50",
        "ARCH leaderboard",
        "official folds, last layer, mean, linear probe (its learning rate never leaves warm-up: probably low)",
        "four source recordings",
        *(45.73, 58.90, 49.88),
    ),
    _row(
        "esc50",
        "MTEB 1.38.33",
        "random 5 folds instead of the official ones, logistic regression on 16 clips per class",
        "source recordings",
        *(46.95, 59.40, 50.40),
    ),
    _row(
        "gtzan",
        "MTEB 1.38.33",
        "random 5 folds of all 1000 clips without fault filter, 16 clips per class",
        "artists, repeated recordings",
        *(62.4, 69.0, 63.0),
    ),
    _row(
        "emodb",
        "EmoBox leaderboard",
        "five folds, weighted accuracy of a small MLP",
        "all ten speakers",
        *(83.14, 87.73, 87.12),
    ),
)
