"""Sounds from numbers: a voice with pitch and formants, music with tempo and timbre, noises. Nothing is recorded."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

Sound = Float[ndarray, " samples"]

VOICE_RATE = 16_000
FRAME_RATE = 100  # of the voice's controls
BANDWIDTHS = np.array([90.0, 120.0, 180.0])  # Hz, of three formants
VOWELS = {  # Hz, an adult male's (Peterson and Barney 1952), rounded
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
    "y": (270.0, 2100.0, 2700.0),
}
HUMS = {
    "m": (250.0, 1000.0, 2200.0),
    "n": (250.0, 1500.0, 2500.0),
    "l": (350.0, 1200.0, 2600.0),
    "r": (400.0, 1300.0, 1700.0),
}
HISSES = {"s": 5500.0, "z": 5000.0, "f": 3500.0, "v": 3000.0, "j": 2500.0, "x": 2000.0, "h": 1500.0, "c": 4200.0}
STOPS = {"p": 800.0, "b": 600.0, "t": 4000.0, "d": 3000.0, "k": 1800.0, "g": 1400.0, "q": 1800.0, "w": 500.0}


@dataclass(frozen=True)
class Speaker:
    """What stays the same in everything that one person says."""

    pitch: float  # Hz
    tract: float  # formants against an adult male's: longer vocal tracts have lower ones
    breath: float  # share of noise in the voice
    tilt: float  # how fast harmonics fall off: dark or bright

    @classmethod
    def drawn(cls, rng: Generator, *, female: bool) -> "Speaker":
        """A speaker at random."""
        low, high, tract = (160, 260, 1.17) if female else (80, 150, 1.0)
        return cls(rng.uniform(low, high), tract * rng.uniform(0.9, 1.1), rng.uniform(0.0, 0.08), rng.uniform(0.6, 1.4))


@dataclass(frozen=True)
class Prosody:
    """How something is said."""

    pitch: float = 1.0  # times the speaker's
    range: float = 0.12  # of the melody, as a part of the pitch
    tempo: float = 1.0
    loudness: float = 0.5
    tremor: float = 0.0  # 6 Hz, as a part of the pitch
    breath: float = 0.0  # added noise
    tilt: float = 0.0  # added to the speaker's


def say(text: str, speaker: Speaker, rng: Generator, prosody: Prosody | None = None) -> Sound:
    """`text`, letter by letter, at VOICE_RATE: vowels and hums are harmonics under formants, other letters noise."""
    prosody = prosody or Prosody()
    letters = [letter for letter in text.lower() if letter.isalpha()]
    frames = [max(3, round(FRAME_RATE * rng.uniform(0.08, 0.11) / prosody.tempo)) for _ in letters]
    voiced = np.concatenate([np.full(n, _voicing(letter)) for letter, n in zip(letters, frames, strict=True)])
    formants = np.concatenate([np.tile(_formants(letter), (n, 1)) for letter, n in zip(letters, frames, strict=True)])
    formants, voiced = _smooth(formants) * speaker.tract, _smooth(voiced[:, None])[:, 0]
    time = np.arange(len(voiced)) / FRAME_RATE
    melody = np.sin(2 * np.pi * rng.uniform(0.7, 1.3) * time + rng.uniform(0, 6)) - 0.5 * time / time[-1]
    wobble = prosody.tremor * np.sin(2 * np.pi * 6 * time)
    pitch = (
        speaker.pitch * prosody.pitch * (1 + prosody.range * melody + wobble + 0.01 * rng.standard_normal(len(time)))
    )
    sound = _harmonics(pitch, formants, voiced, speaker.tilt + prosody.tilt)
    sound = sound / np.abs(sound).max()
    sound += (speaker.breath + prosody.breath) * _to_samples(voiced) * rng.standard_normal(len(sound))
    first = 0
    for letter, n in zip(letters, frames, strict=True):
        sound[first : first + _samples(n)] += _consonant(letter, _samples(n), rng)
        first += _samples(n)
    return prosody.loudness * sound / np.abs(sound).max()


def _voicing(letter: str) -> float:
    return 1.0 if letter in VOWELS else 0.45 if letter in HUMS else 0.0


def _formants(letter: str) -> tuple[float, float, float]:
    return VOWELS.get(letter) or HUMS.get(letter) or (500.0, 1500.0, 2500.0)


def _samples(frames: int) -> int:
    return frames * VOICE_RATE // FRAME_RATE


def _smooth(curves: Float[ndarray, "frames n"]) -> Float[ndarray, "frames n"]:
    """Articulators move: a sliding mean over 50 ms."""
    padded = np.pad(curves, ((2, 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0).mean(axis=-1)


def _to_samples(curve: Float[ndarray, " frames"]) -> Sound:
    places = np.arange(_samples(len(curve))) * FRAME_RATE / VOICE_RATE
    return np.interp(places, np.arange(len(curve)), curve)


def _harmonics(
    pitch: Float[ndarray, " frames"],
    formants: Float[ndarray, "frames 3"],
    loudness: Float[ndarray, " frames"],
    tilt: float,
) -> Sound:
    phase = 2 * np.pi * np.cumsum(_to_samples(pitch)) / VOICE_RATE
    sound = np.zeros_like(phase)
    turn = np.exp(1j * phase)
    wave = np.ones_like(turn)  # its powers: a product per harmonic costs a fifth of a sine
    for harmonic in range(1, min(40, int(0.45 * VOICE_RATE / pitch.max())) + 1):
        resonance = 1 / (1 + ((harmonic * pitch[:, None] - formants) / BANDWIDTHS) ** 2)
        strength = loudness * resonance.sum(axis=1) * harmonic**-tilt
        wave *= turn
        sound += _to_samples(strength) * wave.imag
    return sound


def _consonant(letter: str, samples: int, rng: Generator) -> Sound:
    if letter in HISSES:
        return 0.25 * band(HISSES[letter], 0.5, samples, VOICE_RATE, rng) * np.hanning(samples)
    if letter in STOPS:
        burst = np.exp(-np.arange(samples) / (0.01 * VOICE_RATE))[::-1]
        return 0.4 * band(STOPS[letter], 0.7, samples, VOICE_RATE, rng) * burst
    return np.zeros(samples)


def band(centre: float, width: float, samples: int, rate: int, rng: Generator) -> Sound:
    """Noise around `centre` Hz; `width` is the Gaussian's deviation as a part of it. Peak 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    sound = np.fft.irfft(spectrum * np.exp(-0.5 * ((frequencies - centre) / (width * centre)) ** 2), samples)
    return sound / (np.abs(sound).max() + 1e-12)


@dataclass(frozen=True)
class Style:
    """A genre, for a listener without taste."""

    beats_per_minute: float
    drums: float  # loudness
    decay: float  # seconds a note rings
    brightness: float  # how slowly harmonics fall off
    scale: tuple[int, ...]  # semitones
    root: float = 110.0  # Hz
    distortion: float = 0.0


def music(style: Style, seconds: float, rate: int, rng: Generator) -> Sound:
    """Notes of the style's scale on its beat, and a drum."""
    sound = np.zeros(round(seconds * rate))
    beat = 60 / (style.beats_per_minute * rng.uniform(0.95, 1.05))
    for step, start in enumerate(np.arange(0, seconds, beat / 2)):
        place = round(start * rate)
        time = np.arange(min(len(sound) - place, round(5 * style.decay * rate))) / rate
        semitone = style.scale[rng.integers(len(style.scale))] + 12 * rng.integers(0, 2)
        frequency = style.root * 2 ** (semitone / 12)
        harmonics = np.arange(1, min(8, int(0.45 * rate / frequency)) + 1)
        weights = harmonics ** (-1 / style.brightness)
        note = (weights[:, None] * np.sin(2 * np.pi * frequency * harmonics[:, None] * time)).sum(axis=0)
        sound[place : place + len(time)] += note * np.exp(-time / style.decay) / weights.sum()
        if style.drums and step % 2 == 0:
            sound[place : place + len(time)] += style.drums * _drum(time, rng)
    sound = np.tanh((1 + 8 * style.distortion) * sound / np.abs(sound).max())
    return 0.7 * sound / np.abs(sound).max()


def _drum(time: Float[ndarray, " samples"], rng: Generator) -> Sound:
    return rng.standard_normal(len(time)) * np.exp(-time / 0.03) + np.sin(2 * np.pi * 60 * time) * np.exp(-time / 0.1)


def event(kind: int, centre: float, seconds: float, rate: int, rng: Generator) -> Sound:
    """An environmental sound: `kind` 0 hiss, 1 pulses, 2 siren, 3 knocks, 4 chirps, around `centre` Hz."""
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    speed = rng.uniform(0.85, 1.15)
    if kind == 0:
        sound = band(centre, 0.15, samples, rate, rng)
    elif kind == 1:
        sound = band(centre, 0.15, samples, rate, rng) * (0.5 + 0.5 * np.sin(2 * np.pi * 8 * speed * time))
    elif kind == 2:
        sound = np.sin(2 * np.pi * centre * time + 0.1 * centre / speed * np.sin(2 * np.pi * 2 * speed * time))
    elif kind == 3:
        since = np.mod(time * 4 * speed + rng.uniform(), 1) / (4 * speed)
        sound = band(centre, 0.3, samples, rate, rng) * np.exp(-since / 0.03)
    else:
        since = np.mod(time * 3 * speed + rng.uniform(), 1) / (3 * speed)
        sound = np.sin(2 * np.pi * centre * (1 + 2 * since) * since) * np.exp(-since / 0.1)
    sound += 0.01 * rng.standard_normal(samples)
    return 0.6 * rng.uniform(0.5, 1.0) * sound / np.abs(sound).max()
