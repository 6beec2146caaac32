"""Labels: the clips' classes as a tensor, the form that losses, probes and scores read."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audioconfit.corpora import Clip
from audioconfit.errors import InputError


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
