"""Objective: the parts of the loss, their weights, and the heads that tell the targets from the frames."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from audioconfit.encoders import Encoder
from audioconfit.encoders.layers import standardise
from audioconfit.pretraining.targets import BANDS, CEPSTRA, CLUSTERS, LAGS, Targets
from audioconfit.pretraining.views import Views


@dataclass(frozen=True)
class Objective:
    """The weight of each part of the loss."""

    masked: float = 1.0
    visible: float = 0.5  # the clusters of the frames that are not hidden
    frames: float = 2.0
    melody: float = 1.0
    colour: float = 2.0
    course: float = 2.0
    movement: float = 2.0
    making: float = 2.0
    contrast: float = 0.1


class Heads(nn.Module):
    """What sits on the encoder while it learns, and is thrown away after."""

    def __init__(self, dim: int, making: int) -> None:
        super().__init__()
        self.clusters = nn.Linear(dim, CLUSTERS)
        self.frames = nn.Linear(dim, BANDS)
        self.melody = nn.Linear(dim, 2)
        self.colour = nn.Linear(dim, 4 * BANDS)
        self.course = nn.Linear(dim, 12)
        self.movement = nn.Linear(dim, (2 + len(LAGS)) * CEPSTRA)
        self.making = nn.Linear(dim, making)
        self.contrast = nn.Linear(dim, dim)


def losses(encoder: Encoder, heads: Heads, targets: Targets, heard: Views) -> dict[str, Float[Tensor, ""]]:
    """Each part of the objective, by its name there."""
    hidden = encoder.model(standardise(heard.sound), mask_time_indices=heard.hidden).last_hidden_state
    wanted = targets.of(heard)
    surprise = F.cross_entropy(heads.clusters(hidden).transpose(1, 2), wanted["clusters"], reduction="none")
    clip = hidden.mean(dim=1)
    one, other = F.normalize(heads.contrast(clip), dim=1).chunk(2)
    similarity, same = one @ other.T / 0.1, torch.arange(len(one))
    return {
        "masked": surprise[heard.hidden].mean(),
        "visible": surprise[~heard.hidden].mean(),
        "frames": F.smooth_l1_loss(heads.frames(hidden), wanted["frames"]),
        "melody": F.smooth_l1_loss(heads.melody(hidden), wanted["melody"]),
        "colour": F.smooth_l1_loss(heads.colour(clip), wanted["colour"]),
        "course": F.smooth_l1_loss(heads.course(clip), wanted["course"]),
        "movement": F.smooth_l1_loss(heads.movement(clip), wanted["movement"]),
        "making": F.smooth_l1_loss(heads.making(clip), wanted["making"]),
        "contrast": (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2,
    }
