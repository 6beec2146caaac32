"""Targets: what the heads are to tell about the views, from what the synthesiser knows or an equation gives."""

import math

import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Float, Int
from numpy.random import Generator
from torch import Tensor

from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders.layers import standardise
from audioconfit.pretraining import views
from audioconfit.pretraining.views import AROUND, FIELD, HOP, NEW, START, Views

WINDOW = 640  # of the log-mel frames, laid on the centres of the encoder's
BANDS, CEPSTRA, CLUSTERS = 40, 16, 100
LAGS = (1, 2, 4, 8, 12)  # frames: 20 to 240 ms


class Targets:
    """What is to be told about a batch. Means, deviations and clusters come from the first utterances of the seed."""

    def __init__(self, seed: int) -> None:
        order = torch.arange(CEPSTRA) * math.pi / BANDS
        self.cosines = torch.cos((torch.arange(BANDS)[:, None] + 0.5) * order) * math.sqrt(2 / BANDS)
        sample = [views.at(seed, AROUND * step // NEW) for step in range(8)]
        bands, melodies = [log_mel(one.sound) for one in sample], [melody_of(one) for one in sample]
        clean = torch.cat([self._cepstra(one.clean) for one in sample]).flatten(0, 1)
        self.cepstra_scale = _scale(clean)
        self.band_scale = _scale(torch.cat(bands).flatten(0, 1))
        self.colour_scale = _scale(torch.cat([colour_of(*pair) for pair in zip(bands, melodies, strict=True)]))
        self.course_scale = _scale(torch.cat([course_of(*pair) for pair in zip(bands, melodies, strict=True)]))
        self.movement_scale = _scale(torch.cat([movement_of(self._cosine(each)) for each in bands]))
        self.making_scale = _scale(torch.cat([one.making for one in sample]))
        cepstra = _scaled(clean, self.cepstra_scale)
        self.centres = k_means(cepstra, CLUSTERS, rng=views.generator(seed, START))

    def of(self, heard: Views) -> dict[str, Tensor]:
        """What each head is to tell.

        clusters: the nearest centre of each clean frame's cepstra. frames: log-mel bands. melody: voicing, and the
        pitch in octaves around 160 Hz, 0 where nothing is voiced. colour, course, movement: see below. making: who
        speaks, and how.
        """
        cepstra = _scaled(self._cepstra(heard.clean), self.cepstra_scale)
        bands, melody = log_mel(heard.sound), melody_of(heard)
        return {
            "clusters": nearest(cepstra.flatten(0, 1), self.centres).unflatten(0, cepstra.shape[:2]),
            "frames": _scaled(bands, self.band_scale),
            "melody": melody,
            "colour": _scaled(colour_of(bands, melody), self.colour_scale),
            "course": _scaled(course_of(bands, melody), self.course_scale),
            "movement": _scaled(movement_of(self._cosine(bands)), self.movement_scale),
            "making": _scaled(heard.making, self.making_scale),
        }

    def _cosine(self, bands: Float[Tensor, "rows frames bands"]) -> Float[Tensor, "rows frames cepstra"]:
        return bands @ self.cosines

    def _cepstra(self, sound: Float[Tensor, "rows samples"]) -> Float[Tensor, "rows frames 32"]:
        """And their slopes; most of the clip's mean taken off, which is the speaker's and the room's."""
        cepstra = self._cosine(log_mel(sound))
        cepstra = cepstra - 0.7 * cepstra.mean(dim=1, keepdim=True)
        slopes = F.pad((cepstra[:, 2:] - cepstra[:, :-2]) / 2, (0, 0, 1, 1))
        return torch.cat([cepstra, slopes], dim=-1)


def log_mel(sound: Float[Tensor, "rows samples"]) -> Float[Tensor, "rows frames bands"]:
    """Of the standardised sound, in frames whose centres are the encoder's."""
    bank = torchaudio.functional.melscale_fbanks(WINDOW // 2 + 1, 40.0, 7800.0, BANDS, SAMPLE_RATE)
    centred = standardise(sound)[:, (FIELD - WINDOW) // 2 :]
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(centred, WINDOW, HOP, WINDOW, window, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(dim=-1)
    return torch.log(power.transpose(1, 2) @ bank + 1e-4)[:, : (sound.shape[1] - FIELD) // HOP + 1]


def melody_of(heard: Views) -> Float[Tensor, "rows frames 2"]:
    voiced = (heard.pitch > 0).float()
    octaves = torch.log2(heard.pitch.clamp(min=40) / 160) * voiced
    return torch.stack([2 * voiced - 1, octaves], dim=-1)


# What a clip comes down to, after eGeMAPS (Eyben et al. 2016): its colour, the course of its melody and loudness, and
# how its spectrum moves.


def colour_of(
    bands: Float[Tensor, "rows frames bands"], melody: Float[Tensor, "rows frames 2"]
) -> Float[Tensor, "rows numbers"]:
    """Of each band the mean, the deviation, the mean where voiced, the mean change from frame to frame."""
    voiced = (melody[..., :1] > 0).float()
    change = bands.diff(dim=1).abs().mean(dim=1)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1), _mean(bands, voiced), change], dim=1)


def course_of(
    bands: Float[Tensor, "rows frames bands"], melody: Float[Tensor, "rows frames 2"]
) -> Float[Tensor, "rows 12"]:
    """Five numbers of the pitch where voiced and of the loudness; how much is voiced, how often that turns."""
    voiced = (melody[..., :1] > 0).float()
    loudness = bands.exp().sum(dim=-1, keepdim=True).log()
    pitch, loud = _five(melody[..., 1:], voiced), _five(loudness, torch.ones_like(voiced))
    return torch.cat([*pitch, *loud, voiced.mean(dim=1), voiced.diff(dim=1).abs().mean(dim=1)], dim=1)


def movement_of(cepstra: Float[Tensor, "rows frames cepstra"]) -> Float[Tensor, "rows numbers"]:
    """Of each cepstrum the log deviation, that of its slope, and the autocorrelation at each of LAGS."""
    centred = cepstra - cepstra.mean(dim=1, keepdim=True)
    power = centred.square().mean(dim=1) + 1e-6
    slope = (cepstra[:, 2:] - cepstra[:, :-2]).square().mean(dim=1) + 1e-6
    again = [(centred[:, lag:] * centred[:, :-lag]).mean(dim=1) / power for lag in LAGS]
    return torch.cat([power.log() / 2, slope.log() / 2, *again], dim=1)


def _five(curve: Float[Tensor, "rows frames 1"], where: Float[Tensor, "rows frames 1"]) -> list[Tensor]:
    """Mean, deviation, first and fourth quintile, mean change."""
    mean = _mean(curve, where)
    deviation = _mean((curve - mean[:, None]).square(), where).sqrt()
    inside = torch.where(where > 0, curve, torch.nan)
    low, high = inside.nanquantile(torch.tensor([0.2, 0.8]), dim=1).nan_to_num(0.0)
    change = _mean(curve.diff(dim=1).abs(), where[:, 1:] * where[:, :-1])
    return [mean, deviation, low, high, change]


def _mean(values: Float[Tensor, "rows frames dim"], where: Float[Tensor, "rows frames 1"]) -> Float[Tensor, "rows dim"]:
    return (values * where).sum(dim=1) / where.sum(dim=1).clamp(min=1)


Scale = tuple[Float[Tensor, "numbers"], Float[Tensor, "numbers"]]


def _scale(rows: Float[Tensor, "rows numbers"]) -> Scale:
    return rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-3)


def _scaled(values: Tensor, scale: Scale) -> Tensor:
    return (values - scale[0]) / scale[1]


def k_means(
    points: Float[Tensor, "points dim"], count: int, *, rng: Generator, rounds: int = 20
) -> Float[Tensor, "count dim"]:
    """Lloyd's algorithm from random points; a centre that nothing is nearest to stays where it is."""
    centres = points[torch.from_numpy(rng.choice(len(points), count, replace=False))]
    for _ in range(rounds):
        owner = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        sizes = torch.bincount(owner, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres


def nearest(points: Float[Tensor, "points dim"], centres: Float[Tensor, "count dim"]) -> Int[Tensor, "points"]:
    """The index of the centre at the smallest Euclidean distance."""
    return (centres.square().sum(dim=1) - 2 * points @ centres.T).argmin(dim=1)
