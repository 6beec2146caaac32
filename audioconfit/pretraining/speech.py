"""Speech: invented speakers say invented languages in any manner,.

What the pre-training of our own backbones listens to. Source and filter (Fant 1960) in the short-time Fourier domain:
glottal pulses and noise under the resonances of a moving vocal tract. Nothing is recorded and nothing is copied from
another synthesiser; every number comes from the generator that is passed in. It sounds like speech from another room,
in a language that nobody knows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

import numpy as np
from jaxtyping import Complex64, Float
from numpy import ndarray
from numpy.random import Generator

from audioconfit.pretraining.language import SILENCE, Language, Syllable, spoken_seconds

Sound = Float[ndarray, " samples"]
Curve = Float[ndarray, " steps"]

RATE = 16_000
STEP = 80  # samples between two values of the controls: 5 ms
HOP, FFT = 2 * STEP, 512  # the filter moves every 10 ms; its response may ring for 12 ms past its window of 20 ms
PITCHES = (55.0, 450.0)  # Hz: where a voice stops being one
TILT_FROM = 250.0  # Hz, above which the glottal source falls off

BINS = np.fft.rfftfreq(FFT, 1 / RATE).astype(np.float32)
OCTAVES = np.log2(np.maximum(BINS, 31.25))
DELAY = np.exp(-2j * np.pi * BINS / RATE).astype(np.complex64)
FALL = np.log1p((BINS / TILT_FROM) ** 2)  # its exp to the power of -tilt / 12.04 falls by `tilt` dB per octave
LOW_CUT = BINS**2 / (BINS**2 + 60**2)  # pulses of one sign have a mean, a sound has none
BESIDES = attrgetter("voice", "breath", "hiss", "centre", "width", "nasal")  # a segment's controls but the formants
WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(2 * HOP) + 0.5) / (2 * HOP))).astype(np.float32)


@dataclass(frozen=True)
class Voice:
    """What stays the same in everything that one speaker says."""

    pitch: float  # Hz
    tract: float  # formants against an adult male's: a longer tract has lower ones
    formants: tuple[float, ...]  # each formant's own factor, of six
    bandwidth: float  # of the formants, against the usual
    tilt: float  # dB per octave, of the glottal source
    breath: float  # noise in the voice, as a part of it
    jitter: float  # of the pulses' places, as a part of the period
    shimmer: float  # of their heights

    @classmethod
    def drawn(cls, rng: Generator) -> "Voice":
        """A speaker at random: children to basses, clear to hoarse."""
        pitch = 75 * 2 ** rng.uniform(0, 1.9)
        tract = 0.93 * (pitch / 100) ** 0.22 * rng.uniform(0.88, 1.14)
        return cls(
            pitch,
            tract,
            tuple(rng.normal(1, 0.035, 6)),
            bandwidth=2 ** rng.uniform(-0.6, 0.8),
            tilt=rng.uniform(5, 12),
            breath=10 ** rng.uniform(-2.2, -0.7),
            jitter=10 ** rng.uniform(-3, -1.6),
            shimmer=rng.uniform(0.0, 0.15),
        )


@dataclass(frozen=True)
class Manner:
    """How something is said. Effort runs from -1, murmured, to 1, shouted."""

    effort: float = 0.0
    pitch: float = 0.0  # semitones above the speaker's own
    range: float = 2.0  # semitones, of the melody's deviation
    slope: float = -2.0  # semitones from the first to the last syllable
    ending: float = 0.0  # semitones of the last syllables' rise
    tempo: float = 1.0
    unevenness: float = 0.15  # of durations
    clarity: float = 1.0  # of articulation: below 1, vowels move to the middle
    dynamics: float = 0.3  # of loudness between syllables, natural logarithm
    pauses: float = 0.05  # per word
    breath: float = 0.0  # added, as a part of the voice
    tremor: float = 0.0  # of the pitch, semitones at 4 to 8 Hz
    creak: float = 0.0  # share of syllables an octave down with shaken pulses
    whisper: bool = False

    @classmethod
    def drawn(cls, rng: Generator) -> "Manner":
        """A manner at random. A raised voice is mostly a higher one, and no more than mostly."""
        effort = rng.uniform(-1, 1)
        return cls(
            effort,
            pitch=4 * effort + rng.normal(0, 3.5),
            range=2 ** rng.uniform(-1.5, 2.4),
            slope=rng.normal(-2, 3),
            ending=rng.normal(0, 3) * (rng.random() < 0.5),
            tempo=2 ** rng.uniform(-0.85, 0.8),
            unevenness=rng.uniform(0.05, 0.4),
            clarity=rng.uniform(0.5, 1.15),
            dynamics=rng.uniform(0.05, 0.7),
            pauses=rng.choice([0.0, 0.05, 0.3]),
            breath=10 ** rng.uniform(-2.2, -0.3) * (rng.random() < 0.5),
            tremor=rng.uniform(0.2, 1.5) * (rng.random() < 0.25),
            creak=rng.uniform(0.1, 0.8) * (rng.random() < 0.2),
            whisper=bool(rng.random() < 0.03),
        )


@dataclass(frozen=True)
class Track:
    """The controls of a vocal tract over time, one value per STEP samples."""

    pitch: Curve  # Hz
    formants: Float[ndarray, "steps 4"]  # Hz
    voice: Curve
    breath: Curve
    hiss: Curve
    centre: Curve
    width: Curve
    nasal: Curve
    tilt: Curve  # dB per octave


@dataclass(frozen=True)
class Utterance:
    """What was said, and what only its maker knows of it."""

    sound: Float[ndarray, " samples"]  # float32, peak 1
    pitch: Float[ndarray, " steps"]  # Hz, one value per STEP samples; 0 where nothing is voiced
    voice: Voice
    manner: Manner


def utter(language: Language, voice: Voice, manner: Manner, seconds: float, rng: Generator) -> Utterance:
    """Words of `language` at random, `seconds` of them."""
    syllables: list[Syllable | None] = [None] * bool(rng.random() < 0.5)  # None is a pause
    while spoken_seconds(syllables) < 1.3 * seconds * manner.tempo:
        syllables += language.words[rng.integers(len(language.words))]
        syllables += [None] * bool(rng.random() < manner.pauses)
    return say(syllables, voice, manner, rng, seconds=seconds)


def say(
    syllables: Sequence[Syllable | None],
    voice: Voice,
    manner: Manner,
    rng: Generator,
    *,
    seconds: float | None = None,
) -> Utterance:
    """The syllables (None is a pause); with `seconds` their beginning, and silence where they are shorter."""
    track = _track(syllables, voice, manner, rng)
    steps = len(track.pitch) if seconds is None else round(seconds * RATE / STEP)
    track = Track(*(getattr(track, field.name)[:steps] for field in fields(track)))
    sound, pitch = render(track, voice, rng), track.pitch * (track.voice > 0.05)
    short = steps - len(pitch)
    return Utterance(np.pad(sound, (0, short * STEP)), np.pad(pitch, (0, short)), voice, manner)


def render(track: Track, voice: Voice, rng: Generator) -> Float[ndarray, " samples"]:
    """The sound of a track: pulses under tilt and tract, breath under the tract, hiss under its own band. Peak 1."""
    tract = _tract(track.formants[::2], voice) * _nose(track.nasal[::2])
    tilt = np.exp(-(track.tilt[::2, None] / 12.04).astype(np.float32) * FALL) * LOW_CUT
    distance = (OCTAVES - np.log2(track.centre[::2, None])) / track.width[::2, None]
    hiss = np.exp(-0.5 * distance.astype(np.float32) ** 2)
    noise = rng.standard_normal(STEP * len(track.pitch), dtype=np.float32)
    spectrum = _spectra(_pulses(track.pitch, voice, rng) * _samples(track.voice)) * tilt
    spectrum += _spectra(noise * _samples(track.breath)) * np.sqrt(tilt)
    spectrum *= tract
    spectrum += _spectra(noise * _samples(track.hiss)) * hiss
    pieces = np.fft.irfft(spectrum, axis=1).astype(np.float32)
    sound = _overlapped(pieces)[HOP : HOP + len(noise)]
    return sound / (np.abs(sound).max() + 1e-9)


def _track(syllables: Sequence[Syllable | None], voice: Voice, manner: Manner, rng: Generator) -> Track:
    """Positions held, then smoothed as articulators move; melody and loudness by syllable."""
    count = len(syllables)
    progress = np.linspace(0, 1, count)
    melody = manner.pitch + manner.slope * (progress - 0.5) + manner.range * rng.standard_normal(count)
    melody[-2:] += manner.ending
    loud = manner.dynamics * rng.standard_normal(count)
    creaks = rng.random(count) < manner.creak * np.linspace(0.5, 1.5, count)

    rows, owners = [], []
    for number, syllable in enumerate(syllables):
        phones = ((SILENCE,),) if syllable is None else syllable
        stretch = math.exp(manner.unevenness * rng.standard_normal()) / manner.tempo
        for segment in (segment for phone in phones for segment in phone):
            rows.append((segment.seconds * stretch, *segment.formants, *BESIDES(segment)))
            owners.append(number)
    table = np.array(rows)
    steps = np.maximum(1, np.round(table[:, 0] * RATE / STEP)).astype(int)
    held = np.repeat(table[:, 1:], steps, axis=0)
    owner = np.repeat(owners, steps)

    places = np.searchsorted(owner, np.arange(count)) + 0.5 * np.bincount(owner, minlength=count)
    time = np.arange(len(owner))
    tremor = manner.tremor * np.sin(2 * np.pi * rng.uniform(4, 8) * time * STEP / RATE + rng.uniform(0, 6))
    drift = _smooth(rng.standard_normal(len(time)), 21)
    semitones = _smooth(np.interp(time, places, melody), 15) + tremor + 0.6 * drift - 12 * creaks[owner]
    shaken = 0.05 * rng.standard_normal(len(time)) * creaks[owner]
    pitch = np.clip(voice.pitch * (2 ** (semitones / 12) + shaken), *PITCHES)

    effort = manner.effort + 0.5 * (level := _smooth(np.interp(time, places, loud), 9))
    gain = np.exp(level + 0.8 * effort)
    formants = _smooth(held[:, :4], 9)
    neutral = np.array([500.0, 1500.0, 2500.0, 3500.0])
    formants = neutral + (formants - neutral) * manner.clarity
    formants[:, 0] *= 1 + 0.12 * effort  # the jaw opens
    voiced, breath, hiss = _smooth(held[:, 4], 5) * gain, _smooth(held[:, 5], 3), _smooth(held[:, 6], 3)
    breath = breath + voiced * (voice.breath + manner.breath)
    return Track(
        pitch=pitch,
        formants=formants,
        voice=np.zeros_like(voiced) if manner.whisper else voiced,
        breath=breath + voiced if manner.whisper else breath,
        hiss=hiss * np.exp(0.4 * (level + effort)),
        centre=_smooth(held[:, 7], 3),
        width=held[:, 8],
        nasal=_smooth(held[:, 9], 7),
        tilt=np.clip(voice.tilt - 4 * effort, 1, 20),
    )


def _pulses(pitch: Curve, voice: Voice, rng: Generator) -> Float[ndarray, " samples"]:
    """One pulse per period, between samples where it falls there; of the same power at every pitch."""
    phase = np.cumsum(_samples(pitch) / RATE, dtype=np.float64)
    before = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    period = 1 / (phase[before + 1] - phase[before])
    place = before + (np.floor(phase[before + 1]) - phase[before]) * period
    place += voice.jitter * period * rng.standard_normal(len(place))
    height = np.sqrt(period) * (1 + voice.shimmer * rng.standard_normal(len(place)))
    sound = np.zeros(len(phase) + 1)
    whole = np.clip(np.floor(place), 0, len(phase) - 1).astype(int)
    part = np.clip(place - whole, 0, 1)
    np.add.at(sound, whole, (1 - part) * height)
    np.add.at(sound, whole + 1, part * height)
    return sound[:-1].astype(np.float32)


def _tract(formants: Float[ndarray, "frames 4"], voice: Voice) -> Complex64[ndarray, "frames bins"]:
    """The resonances in a row, each of gain 1 at 0 Hz: six, of which the upper two stand still."""
    upper = np.tile([4500.0, 5500.0], (len(formants), 1))
    centres = np.hstack([formants, upper]) * voice.tract * np.array(voice.formants)
    centres = np.minimum(centres, 7600)
    widths = voice.bandwidth * (50 + 0.035 * centres)
    poles = np.ones((len(formants), len(BINS)), dtype=np.complex64)
    for centre, width in zip(centres.T, widths.T, strict=True):
        poles *= _resonance(centre, width)
    return 1 / poles


def _nose(nasal: Curve) -> Complex64[ndarray, "frames bins"]:
    """A dip around 900 Hz where the nose takes part."""
    dip = _resonance(np.array([900.0]), np.array([150.0]))
    return (1 + nasal[:, None].astype(np.float32) * (dip - 1)).astype(np.complex64)


def _resonance(centre: ndarray, width: ndarray) -> Complex64[ndarray, "frames bins"]:
    """The denominator of a two-pole resonator (Klatt 1980), 1 at 0 Hz."""
    radius = np.exp(-np.pi * width / RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2
    scale = 1 - first + second
    first, second, scale = (value[:, None].astype(np.float32) for value in (first / scale, second / scale, 1 / scale))
    return (second * DELAY - first) * DELAY + scale


def _spectra(sound: Float[ndarray, " samples"]) -> Complex64[ndarray, "frames bins"]:
    """Of windows of two HOPs that add up to 1, one per HOP."""
    padded = np.pad(sound, (HOP, 2 * HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[HOP // 2 :: HOP][: -(-len(sound) // HOP)]
    return np.fft.rfft(frames * WINDOW, FFT, axis=1).astype(np.complex64)


def _overlapped(pieces: Float[ndarray, "frames fft"]) -> Float[ndarray, " samples"]:
    hops = -(-FFT // HOP)
    pieces = np.pad(pieces, ((0, 0), (0, hops * HOP - FFT))).reshape(len(pieces), hops, HOP)
    sound = np.zeros((len(pieces) + hops + 1, HOP), dtype=np.float32)
    for hop in range(hops):
        sound[hop : hop + len(pieces)] += pieces[:, hop]
    return sound.ravel()[HOP // 2 :]


def _samples(curve: Curve) -> Float[ndarray, " samples"]:
    places = np.arange(STEP * len(curve)) / STEP
    return np.interp(places, np.arange(len(curve)), curve).astype(np.float32)


def _smooth(curves: ndarray, steps: int) -> ndarray:
    """A sliding mean over `steps`, an odd number; the ends are held."""
    pad = [(steps // 2 + 1, steps // 2)] + [(0, 0)] * (curves.ndim - 1)
    sums = np.cumsum(np.pad(curves, pad, mode="edge"), axis=0)
    return (sums[steps:] - sums[:-steps]) / steps
