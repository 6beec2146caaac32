"""Labels: the clips' classes as a tensor, the form that losses, probes and scores read."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit.corpora import Clip
from audioconfit.errors import InputError


class Indexed:
    """`tensor` of any rows on demand. A multi-label corpus keeps its indices, not clips x classes numbers."""

    def __init__(
        self, clips: Sequence[Clip], classes: Sequence[str], *, multi_label: bool, device: torch.device
    ) -> None:
        self.classes = len(classes) if multi_label else 0
        if not multi_label:
            self.indices = tensor(clips, classes).to(device)
            return
        number = {label: index for index, label in enumerate(classes)}
        most = max(len(clip.labels) for clip in clips)
        rows = [[number[label] for label in clip.labels] for clip in clips]
        padded = [row + [len(classes)] * (most - len(row)) for row in rows]  # a class too many, which is cut off
        self.indices = torch.tensor(padded, dtype=torch.long).reshape(len(clips), most).to(device)

    def __getitem__(self, rows: Int[Tensor, "rows"]) -> Int[Tensor, "rows"] | Float[Tensor, "rows classes"]:
        chosen = self.indices[rows]
        if not self.classes:
            return chosen
        zeros = torch.zeros(len(rows), self.classes + 1, device=chosen.device)
        return zeros.scatter(1, chosen, 1.0)[:, : self.classes]


def tensor(
    clips: Sequence[Clip], classes: Sequence[str], *, multi_label: bool = False
) -> Int[Tensor, "clips"] | Float[Tensor, "clips classes"]:
    """Class indices; for a multi-label corpus a 0/1 row per clip. InputError: a label that is not among the classes."""
    index = {label: number for number, label in enumerate(classes)}
    if unknown := sorted({label for clip in clips for label in clip.labels} - index.keys()):
        raise InputError(
            f"Labels {unknown[:5]} are not among the {len(classes)} classes; take the classes of the split."
        )
    if not multi_label:
        return torch.tensor([index[clip.label] for clip in clips], dtype=torch.long)
    labels = torch.zeros(len(clips), len(classes))
    for row, clip in zip(labels, clips, strict=True):
        row[[index[label] for label in clip.labels]] = 1.0
    return labels
