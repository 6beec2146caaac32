"""Pre-training: small backbones of our own, from speech that nobody ever spoke.

    python -m audioconfit pretrain wav2vec2-tiny --out FOLDER     # about 8 minutes on one core

A batch is a pure function of (seed, step), so that a run that was killed goes on to the same weights, bit for bit on
one machine. What is listened to is made in synthesis/speech.py; noise, rooms and microphones are added here. What is
learned, all at once (`Objective`):

- masked prediction, as in HuBERT (Hsu et al. 2021): the cluster of each hidden frame of the clean sound,
- the log-mel spectrum, the voicing and the pitch of each frame,
- the statistics of these over the clip, and how the clip was made: who speaks, and in what manner,
- which two clips come from one utterance (InfoNCE, van den Oord et al. 2018).
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Bool, Complex64, Float, Int
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor, nn

from audioconfit import encoders, probe, randomness
from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders import Encoder, blank
from audioconfit.encoders.layers import standardise
from audioconfit.features import Features
from audioconfit.synthesis import speech
from audioconfit.synthesis.speech import Language, Manner, Utterance, Voice

ARCHITECTURES = {"wav2vec2-tiny": "wav2vec2", "hubert-tiny": "hubert", "wavlm-tiny": "wavlm"}

STEPS = 1_000
CPU = torch.device("cpu")

CLIP = 24_000  # samples of one view: 1.5 s
UTTERANCE_SECONDS = 3.0
ROWS = 16  # utterances of a step, with two views each
LANGUAGES = 300
# Utterances that a step draws from, and how many of them are new: each is heard about four times, never alike.
AROUND, NEW = 128, 4

FIELD = 880  # samples that a frame of the encoder sees
HOP, WINDOW = 320, 640  # of the log-mel frames, laid on the centres of the encoder's
BANDS, CEPSTRA, CLUSTERS = 40, 16, 100
MASKED_START, MASKED_SPAN = 0.065, 8  # of frames: how many begin a hidden stretch, and its length

LR, WARMUP, CLIPPED = 2e-3, 100, 2.0
CHECKPOINT_STEPS = 10

# The streams of random numbers, by what they are for.
LANGUAGE, SPEECH, STEP, START, HELD_OUT = range(5)


@dataclass(frozen=True)
class Objective:
    """The weight of each part of the loss."""

    masked: float = 1.0
    visible: float = 0.5  # the clusters of the frames that are not hidden
    frames: float = 2.0
    melody: float = 1.0
    colour: float = 2.0
    course: float = 2.0
    making: float = 2.0
    contrast: float = 0.1


@dataclass(frozen=True)
class Batch:
    """Two views of each utterance: the first half of the rows, and in the same order the second."""

    sound: Float[Tensor, "rows samples"]  # as recorded in some room
    clean: Float[Tensor, "rows samples"]
    pitch: Float[Tensor, "rows frames"]  # Hz; 0 where nothing is voiced
    making: Float[Tensor, "rows numbers"]
    hidden: Bool[Tensor, "rows frames"]


def generator(seed: int, stream: int, number: int = 0) -> Generator:
    """Where all random numbers come from."""
    return np.random.default_rng((seed, stream, number))


@lru_cache(LANGUAGES)
def language(seed: int, number: int) -> Language:
    """One of the invented languages."""
    return Language.drawn(generator(seed, LANGUAGE, number))


@lru_cache(2 * AROUND)
def utterance(seed: int, number: int) -> Utterance:
    """One of the endless utterances, each by another speaker."""
    rng = generator(seed, SPEECH, number)
    spoken = language(seed, int(rng.integers(LANGUAGES)))
    return speech.utter(spoken, Voice.drawn(rng), Manner.drawn(rng), UTTERANCE_SECONDS, rng)


def batch(seed: int, step: int) -> Batch:
    """What step number `step` learns from."""
    rng = generator(seed, STEP, step)
    chosen = NEW * step + rng.choice(AROUND, ROWS, replace=False)
    utterances = [utterance(seed, int(number)) for number in (*chosen, *chosen)]
    starts = rng.integers(0, len(utterances[0].pitch) - CLIP // speech.STEP + 1, len(utterances))
    pairs = list(zip(utterances, starts, strict=True))
    clean = np.stack([heard.sound[speech.STEP * start :][:CLIP] for heard, start in pairs])
    pitch = np.stack([heard.pitch[start:][: CLIP // speech.STEP] for heard, start in pairs])
    making = np.stack([numbers_of(heard.voice, heard.manner) for heard in utterances])
    frames = (CLIP - FIELD) // HOP + 1
    begins, hidden = rng.random((len(clean), frames)) < MASKED_START, np.zeros((len(clean), frames), dtype=bool)
    for shift in range(MASKED_SPAN):
        hidden[:, shift:] |= begins[:, : frames - shift]
    return Batch(
        torch.from_numpy(in_a_room(clean, rng)),
        torch.from_numpy(clean),
        torch.from_numpy(pitch[:, 5::4][:, :frames].astype(np.float32)),
        torch.from_numpy(making.astype(np.float32)),
        torch.from_numpy(hidden),
    )


def numbers_of(voice: Voice, manner: Manner) -> Float[ndarray, " numbers"]:
    """How an utterance was made, in the units in which it is heard: octaves, decades, decibels."""
    return np.array(
        [
            math.log2(voice.pitch) + manner.pitch / 12,
            manner.pitch,
            math.log2(voice.tract),
            math.log2(voice.bandwidth),
            voice.tilt - 4 * manner.effort,
            math.log10(voice.breath + manner.breath),
            math.log10(voice.jitter),
            voice.shimmer,
            manner.effort,
            math.log2(manner.range),
            manner.slope,
            math.log2(manner.tempo),
            manner.clarity,
            manner.dynamics,
            manner.tremor,
            manner.creak,
        ]
    )


def in_a_room(clean: Float[ndarray, "rows samples"], rng: Generator) -> Float[ndarray, "rows samples"]:
    """The sounds through another room and microphone each, with other noise: from a studio to a busy street."""
    rows, samples = clean.shape
    size = 2 ** math.ceil(math.log2(samples + ECHO))
    spectrum = _rfft(clean, size)
    spectrum *= _equaliser(rows, np.fft.rfftfreq(size, 1 / SAMPLE_RATE), rng)
    echoing = np.flatnonzero(rng.random(rows) < 0.25)
    spectrum[echoing] *= _rfft(_echoes(len(echoing), rng), size)
    sound = _irfft(spectrum, size)[:, :samples]
    loudness = 10 ** (-rng.uniform(5, 50, (rows, 1)) / 20) * (rng.random((rows, 1)) < 0.6)
    return sound + loudness.astype(np.float32) * sound.std(axis=1, keepdims=True) * _noise(rows, samples, rng)


ECHO = 8_000  # samples


def _equaliser(rows: int, hertz: Float[ndarray, " bins"], rng: Generator) -> Float[ndarray, "rows bins"]:
    """A smooth random curve over the octaves, and for some a low-pass."""
    octave = np.log2(1 + hertz / 300) / math.log2(1 + 8000 / 300) * 7
    gains = rng.normal(0, 4, (rows, 8)) * (rng.random((rows, 1)) < 0.7)
    below = np.minimum(octave.astype(int), 6)
    decibels = gains[:, below] + (octave - below) * (gains[:, below + 1] - gains[:, below])
    cut = np.where(rng.random((rows, 1)) < 0.35, rng.uniform(3000, 6500, (rows, 1)), 1e5)
    steep = ((hertz / cut).astype(np.float32) ** 2) ** 2
    return np.exp((math.log(10) / 20) * decibels.astype(np.float32)) / (1 + (steep**2) ** 2)


def _echoes(rows: int, rng: Generator) -> Float[ndarray, "rows samples"]:
    """Impulse responses: the direct sound, then noise that dies away within 0.1 to 0.6 s."""
    time = np.arange(ECHO, dtype=np.float32) / SAMPLE_RATE
    decay = np.exp(-6.9 * time / rng.uniform(0.1, 0.6, (rows, 1)).astype(np.float32))
    level = rng.uniform(0, 0.03, (rows, 1)).astype(np.float32)
    echoes = rng.standard_normal((rows, ECHO), dtype=np.float32) * decay * level
    echoes[:, 0] = 1
    return echoes


def _noise(rows: int, samples: int, rng: Generator) -> Float[ndarray, "rows samples"]:
    """Noise from white to brown of deviation 1, for half of the rows swelling and fading."""
    spectrum = _rfft(rng.standard_normal((rows, samples), dtype=np.float32), samples)
    octaves = np.log(np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 40) / 40).astype(np.float32)
    spectrum *= np.exp(-rng.uniform(0, 1.5, (rows, 1)).astype(np.float32) * octaves)
    noise = _irfft(spectrum, samples)
    swell = rng.random((rows, 8)) ** (rng.random((rows, 1)) < 0.5)
    places = np.linspace(0, 7, samples)
    noise *= np.stack([np.interp(places, np.arange(8), row) for row in swell])
    return noise / noise.std(axis=1, keepdims=True)


def _rfft(sound: Float[ndarray, "rows samples"], size: int) -> Complex64[ndarray, "rows bins"]:
    """Through torch, whose transform takes half of the time of NumPy's."""
    return torch.fft.rfft(torch.from_numpy(sound), size).numpy()


def _irfft(spectrum: Complex64[ndarray, "rows bins"], size: int) -> Float[ndarray, "rows samples"]:
    return torch.fft.irfft(torch.from_numpy(spectrum), size).numpy()


class Targets:
    """What is to be told about a batch. Means, deviations and clusters come from the first utterances of the seed."""

    def __init__(self, seed: int) -> None:
        order = torch.arange(CEPSTRA) * math.pi / BANDS
        self.cosines = torch.cos((torch.arange(BANDS)[:, None] + 0.5) * order) * math.sqrt(2 / BANDS)
        sample = [batch(seed, AROUND * step // NEW) for step in range(8)]
        self.cepstra_scale = _scale(torch.cat([self._cepstra(one.clean) for one in sample]).flatten(0, 1))
        self.band_scale = _scale(torch.cat([log_mel(one.sound) for one in sample]).flatten(0, 1))
        self.colour_scale = _scale(torch.cat([_colour(log_mel(one.sound), _melody(one)) for one in sample]))
        self.course_scale = _scale(torch.cat([_course(log_mel(one.sound), _melody(one)) for one in sample]))
        self.making_scale = _scale(torch.cat([one.making for one in sample]))
        cepstra = torch.cat([_scaled(self._cepstra(one.clean), self.cepstra_scale) for one in sample]).flatten(0, 1)
        self.centres = k_means(cepstra, CLUSTERS, rng=generator(seed, START))

    def of(self, heard: Batch) -> dict[str, Tensor]:
        """What each head is to tell.

        clusters: the nearest centre of each clean frame's cepstra. frames: log-mel bands. melody: voicing, and the
        pitch in octaves around 160 Hz, 0 where nothing is voiced. colour, course: see below. making: who speaks, how.
        """
        cepstra = _scaled(self._cepstra(heard.clean), self.cepstra_scale)
        bands, melody = log_mel(heard.sound), _melody(heard)
        return {
            "clusters": nearest(cepstra.flatten(0, 1), self.centres).unflatten(0, cepstra.shape[:2]),
            "frames": _scaled(bands, self.band_scale),
            "melody": melody,
            "colour": _scaled(_colour(bands, melody), self.colour_scale),
            "course": _scaled(_course(bands, melody), self.course_scale),
            "making": _scaled(heard.making, self.making_scale),
        }

    def _cepstra(self, sound: Float[Tensor, "rows samples"]) -> Float[Tensor, "rows frames 32"]:
        """And their slopes; most of the clip's mean taken off, which is the speaker's and the room's."""
        cepstra = log_mel(sound) @ self.cosines
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


def _melody(heard: Batch) -> Float[Tensor, "rows frames 2"]:
    voiced = (heard.pitch > 0).float()
    octaves = torch.log2(heard.pitch.clamp(min=40) / 160) * voiced
    return torch.stack([2 * voiced - 1, octaves], dim=-1)


# What a clip comes down to, after eGeMAPS (Eyben et al. 2016): its colour, and the course of its melody and loudness.


def _colour(
    bands: Float[Tensor, "rows frames bands"], melody: Float[Tensor, "rows frames 2"]
) -> Float[Tensor, "rows numbers"]:
    """Of each band the mean, the deviation, the mean where voiced, the mean change from frame to frame."""
    voiced = (melody[..., :1] > 0).float()
    change = bands.diff(dim=1).abs().mean(dim=1)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1), _mean(bands, voiced), change], dim=1)


def _course(
    bands: Float[Tensor, "rows frames bands"], melody: Float[Tensor, "rows frames 2"]
) -> Float[Tensor, "rows 12"]:
    """Five numbers of the pitch where voiced and of the loudness; how much is voiced, how often that turns."""
    voiced = (melody[..., :1] > 0).float()
    loudness = bands.exp().sum(dim=-1, keepdim=True).log()
    pitch, loud = _five(melody[..., 1:], voiced), _five(loudness, torch.ones_like(voiced))
    return torch.cat([*pitch, *loud, voiced.mean(dim=1), voiced.diff(dim=1).abs().mean(dim=1)], dim=1)


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


class Heads(nn.Module):
    """What sits on the encoder while it learns, and is thrown away after."""

    def __init__(self, dim: int, making: int) -> None:
        super().__init__()
        self.clusters = nn.Linear(dim, CLUSTERS)
        self.frames = nn.Linear(dim, BANDS)
        self.melody = nn.Linear(dim, 2)
        self.colour = nn.Linear(dim, 4 * BANDS)
        self.course = nn.Linear(dim, 12)
        self.making = nn.Linear(dim, making)
        self.contrast = nn.Linear(dim, dim)


def losses(encoder: Encoder, heads: Heads, targets: Targets, heard: Batch) -> dict[str, Float[Tensor, ""]]:
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
        "making": F.smooth_l1_loss(heads.making(clip), wanted["making"]),
        "contrast": (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2,
    }


def rate(step: int, steps: int) -> float:
    """The learning rate: up over WARMUP steps, down along a half cosine."""
    return LR * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class Setting:
    """All that the weights depend on."""

    name: str
    seed: int = 0
    steps: int = STEPS
    objective: Objective = field(default_factory=Objective)
    start: Literal["filters", "random"] = "filters"
    shape: dict[str, Any] = field(default_factory=dict)  # of the encoder, where it is not blank.SHAPE's

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            raise ValueError(f"Unknown backbone {self.name!r} to pre-train; choose one of {', '.join(ARCHITECTURES)}.")
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps train nothing; choose 1 or more (default {STEPS}).")
        if self.seed < 0:
            raise ValueError(f"Seed {self.seed} is negative; choose 0 or more.")


class Run:
    """A pre-training between two steps: what a checkpoint holds, and what follows from the setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.step = 0
        self.targets = Targets(setting.seed)
        self.encoder = untrained(setting).train()
        with randomness.private(setting.seed, START, CPU):
            self.heads = Heads(self.encoder.dim, len(self.targets.making_scale[0]))
        self.parameters = [*self.encoder.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=LR, betas=(0.9, 0.98), weight_decay=0.01)

    def advance(self) -> dict[str, float]:
        """One step; the parts of its loss. ArithmeticError: a loss that is not finite."""
        parts = losses(self.encoder, self.heads, self.targets, batch(self.setting.seed, self.step))
        loss = sum(weight * parts[name] for name, weight in asdict(self.setting.objective).items() if weight)
        assert isinstance(loss, Tensor)
        told = {name: part.item() for name, part in parts.items()}
        if not loss.isfinite():
            raise ArithmeticError(f"The loss is {loss.item()} after {self.step} steps of {self.setting}: {told}.")
        self.optimiser.param_groups[0]["lr"] = rate(self.step, self.setting.steps)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIPPED)
        self.optimiser.step()
        self.step += 1
        return told

    def save(self, file: Path) -> None:
        """All that the steps so far changed; written under a temporary name and renamed."""
        kept = [part.state_dict() for part in self._parts]
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        torch.save({"setting": asdict(self.setting), "step": self.step, "kept": kept}, temporary)
        os.replace(temporary, file)

    def load(self, file: Path) -> None:
        """Go on where `save` left off. ValueError: the checkpoint of another setting."""
        found = torch.load(file, weights_only=True)
        if found["setting"] != asdict(self.setting):
            raise ValueError(
                f"{file} was left by another pre-training, {found['setting']}, not {asdict(self.setting)}; "
                f"repeat that one's command to finish it, or choose another folder."
            )
        self.step = found["step"]
        for part, state in zip(self._parts, found["kept"], strict=True):
            part.load_state_dict(state)

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.encoder, self.heads, self.optimiser


def untrained(setting: Setting) -> Encoder:
    """Where a pre-training begins."""
    encoder = blank.blank(ARCHITECTURES[setting.name], seed=setting.seed, start=setting.start, **setting.shape)
    if setting.start == "filters":
        blank.even_out(encoder, standardise(batch(setting.seed, 0).sound))
    return encoder


Progress = Callable[[int, dict[str, float]], None]


def pretrain(setting: Setting, folder: Path, *, progress: Progress | None = None) -> Encoder:
    """Pre-train, and write the encoder to `folder` as config.json, preprocessor_config.json and model.safetensors.

    A run that was killed goes on from the checkpoint in `folder`, a finished one is loaded. `progress` is told (step,
    the parts of the loss) after each step.

    Raises:
        ValueError: a folder with something else in it.
        ArithmeticError: a loss that is not finite.
    """
    about, checkpoint = folder / "pretraining.json", folder / "checkpoint.pt"
    wanted = json.dumps(asdict(setting), indent=2)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder, new or empty.")
    if about.exists() and about.read_text() != wanted:
        raise ValueError(f"{folder} holds another pre-training, see {about}; choose another folder.")
    if not about.exists() and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else; choose a folder that is new or empty.")
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(about, wanted)
        run = Run(setting)
        if checkpoint.exists():
            run.load(checkpoint)
        while run.step < setting.steps:
            told = run.advance()
            if progress is not None:
                progress(run.step, told)
            if run.step % CHECKPOINT_STEPS == 0:
                run.save(checkpoint)
        run.encoder.half().save(folder)  # the weights come last: they say that all is there
        checkpoint.unlink(missing_ok=True)
    return encoders.load(str(folder))


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, file)


@dataclass(frozen=True)
class Task:
    """Clips of generated speakers that no pre-training heard; the last part of them is read as test."""

    name: str
    sounds: Float[Tensor, "clips samples"]
    labels: Int[Tensor, "clips"]
    classes: tuple[str, ...]
    parts: tuple[int, int]  # where validation begins, and where test does


def held_out_tasks(seed: int = 0) -> list[Task]:
    """Manners (8) and words (12) across speakers, and speakers (24) across words and manners."""
    rng = generator(seed, HELD_OUT)
    spoken = Language.drawn(rng)
    manners, words = [Manner.drawn(rng) for _ in range(8)], spoken.words[:12]
    speakers = [Voice.drawn(rng) for _ in range(40)]
    usual = Manner()
    return [
        _task(
            "manners", [[(spoken.words[rng.integers(40)] * 3, who, how) for how in manners] for who in speakers], rng
        ),
        _task("words", [[(word, who, usual) for word in words] for who in speakers], rng),
        _task(
            "speakers",
            [[(spoken.words[rng.integers(40)] * 3, who, usual) for who in speakers[:24]] for _ in range(12)],
            rng,
        ),
    ]


Said = tuple[tuple[speech.Syllable, ...], Voice, Manner]


def _task(name: str, table: list[list[Said]], rng: Generator) -> Task:
    """A row of the table holds a clip of each class; half of the rows train, a sixth validate."""
    sounds = np.zeros((len(table) * len(table[0]), CLIP), dtype=np.float32)
    for row, (syllables, voice, manner) in zip(sounds, [cell for line in table for cell in line], strict=True):
        said = speech.say(list(syllables), voice, manner, rng).sound[:CLIP]
        row[(start := (CLIP - len(said)) // 2) : start + len(said)] = said
    count = len(table[0])
    labels = torch.arange(count).repeat(len(table))
    parts = len(table) // 2 * count, len(table) * 2 // 3 * count
    return Task(name, torch.from_numpy(in_a_room(sounds, rng)), labels, tuple(map(str, range(count))), parts)


Embed = Callable[[Float[Tensor, "clips samples"]], Float[Tensor, "clips dim"]]


def accuracy(task: Task, embed: Embed) -> float:
    """Of the linear probe on the embeddings, on the task's test clips."""
    with torch.inference_mode():
        embedded = torch.cat([embed(sounds) for sounds in task.sounds.split(32)])
    cuts = (0, *task.parts, len(embedded))
    train, valid, test = (
        Features(embedded[start:end], tuple(map(str, range(start, end))), task.labels[start:end])
        for start, end in pairwise(cuts)
    )
    linear = probe.fit(train, valid, classes=task.classes, lr=1e-2)
    return (linear.logits(test.embeddings).argmax(dim=1) == test.labels).float().mean().item()


def log_mel_statistics(sounds: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips 80"]:
    """The embedding that needs no network: mean and deviation of each log-mel band."""
    bands = log_mel(sounds)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1)], dim=1)
