"""Augmentations of training chunks, as a batch, on the device: options, off by default because the paper names none.

Each row draws for itself. What is drawn comes from the generator that is passed: seeded by epoch and step, a batch is
augmented the same after a resume. Masking frames inside the encoder is SpecAugment, an option of encoders.load.
"""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torchaudio.functional import resample

from audioconfit.errors import InputError

SPEEDS = ((9, 10), (10, 10), (11, 10))  # played at the first rate, kept at the second: 0.9, 1, 1.1 (Ko et al. 2015)
GAIN_DECIBELS = (-6.0, 6.0)
SIGNAL_TO_NOISE_DECIBELS = (10.0, 30.0)
LARGEST_MASK = 0.2  # of a row

Rows = Float[Tensor, "batch samples"]
Lengths = Int[Tensor, "batch"]
Augmentation = Callable[[Rows, Lengths | None, Generator], tuple[Rows, Lengths | None]]


def apply(
    waveforms: Rows, lengths: Lengths | None, names: Collection[str], generator: Generator
) -> tuple[Rows, Lengths | None]:
    """The batch augmented, at the same width, in the order of AUGMENTATIONS whatever the order of `names`.

    `lengths` None: all rows are full, and stay so unless speed shortens some. Padding is zero before and after. The
    generator is on the CPU, so that nothing waits for the device. InputError: an unknown name.
    """
    check(names)
    for name, augmentation in AUGMENTATIONS.items():
        if name in names:
            waveforms, lengths = augmentation(waveforms, lengths, generator)
    return waveforms, lengths


def check(names: Collection[str]) -> None:
    """InputError for an augmentation that does not exist."""
    if unknown := sorted(set(names) - AUGMENTATIONS.keys()):
        raise InputError(f"Unknown augmentation {unknown[0]!r}; choose from {', '.join(AUGMENTATIONS)}.")


def change_speed(waveforms: Rows, lengths: Lengths | None, generator: Generator) -> tuple[Rows, Lengths | None]:
    """0.9, 1 or 1.1 times as fast, pitch and all. A slower row loses its end, a faster one is padded."""
    rows, width = waveforms.shape
    choice = torch.randint(len(SPEEDS), (rows,), generator=generator)
    before = torch.full((rows,), width, device=waveforms.device) if lengths is None else lengths
    changed, after = torch.zeros_like(waveforms), before.clone()
    for number, (played, kept) in enumerate(SPEEDS):
        chosen = (choice == number).nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        chosen = chosen.to(waveforms.device)
        resampled = resample(waveforms[chosen], played, kept)[:, :width]
        changed[chosen, : resampled.shape[1]] = resampled
        after[chosen] = (-(-before[chosen] * kept // played)).clamp(max=width)
    if lengths is None and bool((choice < 2).all()):
        return changed, None
    return _silent_behind(changed, after), after


def change_gain(waveforms: Rows, lengths: Lengths | None, generator: Generator) -> tuple[Rows, Lengths | None]:
    """Louder or softer by up to 6 dB. Encoders that normalise their input, or its first convolution, do not notice."""
    decibels = _uniform(waveforms, GAIN_DECIBELS, generator)
    return waveforms * 10 ** (decibels[:, None] / 20), lengths


def add_white_noise(waveforms: Rows, lengths: Lengths | None, generator: Generator) -> tuple[Rows, Lengths | None]:
    """White noise, 10 to 30 dB below the row's own level; a silent row stays silent."""
    decibels = _uniform(waveforms, SIGNAL_TO_NOISE_DECIBELS, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    on_device = torch.Generator(waveforms.device).manual_seed(seed)
    noise = torch.randn(waveforms.shape, generator=on_device, device=waveforms.device, dtype=waveforms.dtype)
    if lengths is not None:
        noise = _silent_behind(noise, lengths)
    level = waveforms.norm(dim=1) / noise.norm(dim=1) * 10 ** (-decibels / 20)
    return waveforms + level[:, None] * noise, lengths


def mask_time(waveforms: Rows, lengths: Lengths | None, generator: Generator) -> tuple[Rows, Lengths | None]:
    """One stretch of silence, up to a fifth of the row."""
    total = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device) if lengths is None else lengths
    masked = total * _uniform(waveforms, (0.0, LARGEST_MASK), generator)
    start = (total - masked) * _uniform(waveforms, (0.0, 1.0), generator)
    position = torch.arange(waveforms.shape[1], device=waveforms.device)
    inside = (position >= start[:, None]) & (position < (start + masked)[:, None])
    return waveforms.masked_fill(inside, 0), lengths


AUGMENTATIONS: dict[str, Augmentation] = {
    "speed": change_speed,
    "gain": change_gain,
    "noise": add_white_noise,
    "time_mask": mask_time,
}


def _uniform(waveforms: Rows, bounds: tuple[float, float], generator: Generator) -> Float[Tensor, "batch"]:
    """One draw per row, on the rows' device."""
    low, high = bounds
    return (low + (high - low) * torch.rand(len(waveforms), generator=generator)).to(waveforms)


def _silent_behind(waveforms: Rows, lengths: Lengths) -> Rows:
    """Zeros beyond a row's end, where resampling rings and noise would go on."""
    beyond = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths[:, None]
    return waveforms.masked_fill(beyond, 0)
