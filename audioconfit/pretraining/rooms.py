"""Rooms: the same sound through another room and microphone, with noise, from a studio to a busy street."""

import math

import numpy as np
import torch
from jaxtyping import Complex64, Float
from numpy import ndarray
from numpy.random import Generator

RATE = 16_000
ECHO = 8_000  # samples


def recorded(clean: Float[ndarray, "rows samples"], rng: Generator) -> Float[ndarray, "rows samples"]:
    """The sounds through another room and microphone each, with other noise: from a studio to a busy street."""
    rows, samples = clean.shape
    size = 2 ** math.ceil(math.log2(samples + ECHO))
    spectrum = _rfft(clean, size)
    spectrum *= _equaliser(rows, np.fft.rfftfreq(size, 1 / RATE), rng)
    echoing = np.flatnonzero(rng.random(rows) < 0.25)
    if len(echoing):  # the transform of no rows at all is an error of MKL's
        spectrum[echoing] *= _rfft(_echoes(len(echoing), rng), size)
    sound = _irfft(spectrum, size)[:, :samples]
    loudness = 10 ** (-rng.uniform(5, 50, (rows, 1)) / 20) * (rng.random((rows, 1)) < 0.6)
    return sound + loudness.astype(np.float32) * sound.std(axis=1, keepdims=True) * _noise(rows, samples, rng)


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
    time = np.arange(ECHO, dtype=np.float32) / RATE
    decay = np.exp(-6.9 * time / rng.uniform(0.1, 0.6, (rows, 1)).astype(np.float32))
    level = rng.uniform(0, 0.03, (rows, 1)).astype(np.float32)
    echoes = rng.standard_normal((rows, ECHO), dtype=np.float32) * decay * level
    echoes[:, 0] = 1
    return echoes


def _noise(rows: int, samples: int, rng: Generator) -> Float[ndarray, "rows samples"]:
    """Noise from white to brown of deviation 1, for half of the rows swelling and fading."""
    spectrum = _rfft(rng.standard_normal((rows, samples), dtype=np.float32), samples)
    octaves = np.log(np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 40) / 40).astype(np.float32)
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
