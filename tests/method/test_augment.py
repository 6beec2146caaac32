"""Augmentations: what each does to a tone, what it leaves alone, and that the generator alone decides."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from audioconfit import augment


def tone(rows: int, samples: int = 8_000, *, hertz: float = 200.0) -> Tensor:
    return (0.3 * torch.sin(2 * math.pi * hertz * torch.arange(samples) / 16_000)).repeat(rows, 1)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_nothing_is_done_unless_asked_for() -> None:
    waveforms = tone(4)
    assert augment.apply(waveforms, None, (), seeded()) == (waveforms, None)


def test_unknown_augmentation_is_refused_with_the_known_ones_listed() -> None:
    with pytest.raises(ValueError, match="'reverb'; choose from speed, gain, noise, time_mask"):
        augment.apply(tone(1), None, ("gain", "reverb"), seeded())


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_generator_alone_decides_what_is_drawn(name: Any) -> None:
    torch.manual_seed(1)
    first, _ = augment.apply(tone(8), None, (name,), seeded(3))
    torch.manual_seed(2)
    same, _ = augment.apply(tone(8), None, (name,), seeded(3))
    other, _ = augment.apply(tone(8), None, (name,), seeded(4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_each_row_draws_for_itself(name: Any) -> None:
    augmented, _ = augment.apply(tone(16), None, (name,), seeded())
    assert len(augmented.unique(dim=0)) >= 3


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_padding_stays_silent_and_width_stays(name: Any) -> None:
    waveforms, lengths = tone(16), torch.tensor([8_000, 5_000] * 8)
    beyond = torch.arange(8_000) >= lengths[:, None]
    augmented, after = augment.apply(waveforms.masked_fill(beyond, 0), lengths, (name,), seeded())
    assert augmented.shape == waveforms.shape
    assert augmented[torch.arange(8_000) >= after[:, None]].abs().max() == 0
    assert lengths.tolist() == [8_000, 5_000] * 8


def test_gain_scales_a_row_by_up_to_6_decibels() -> None:
    augmented, lengths = augment.apply(tone(200), None, ("gain",), seeded())
    factors = augmented / tone(200).clamp(min=1e-9)
    decibels = 20 * factors[:, 20].log10()
    torch.testing.assert_close(augmented, tone(200) * factors[:, 20:21])
    assert -6 <= decibels.min() < -5 < 5 < decibels.max() <= 6
    assert lengths is None


def test_noise_lies_10_to_30_decibels_below_the_rows_own_valid_samples() -> None:
    lengths = torch.full((200,), 6_000)
    waveforms = tone(200) * (torch.arange(8_000) < 6_000)
    augmented, _ = augment.apply(waveforms, lengths, ("noise",), seeded())
    noise = augmented - waveforms
    decibels = 10 * (waveforms.square().sum(dim=1) / noise.square().sum(dim=1)).log10()
    assert 9.99 <= decibels.min() < 11
    assert 29 < decibels.max() <= 30.01


def test_silence_stays_silent_under_noise() -> None:
    augmented, _ = augment.apply(torch.zeros(2, 100), None, ("noise",), seeded())
    assert augmented.abs().max() == 0


def test_time_mask_silences_one_stretch_of_up_to_a_fifth() -> None:
    waveforms = torch.ones(300, 1_000)
    augmented, _ = augment.apply(waveforms, None, ("time_mask",), seeded())
    assert ((augmented == 0) | (augmented == 1)).all()
    assert (augmented.diff(dim=1) == -1).sum(dim=1).max() <= 1  # it goes silent once
    silent = (augmented == 0).sum(dim=1)
    assert silent.max() <= 201
    assert silent.max() > 180
    assert silent.min() < 20
    assert (augmented == 0).any(dim=0)[20:-20].all()  # anywhere


def crossings(row: Tensor, samples: int) -> int:
    return int((row[:samples].sign().diff() > 0).sum())


def test_speed_changes_length_and_pitch() -> None:
    """200 Hz for half a second are 100 periods; at 1.1 all of them in 7273 samples, at 0.9 the first 90 in 8000."""
    augmented, lengths = augment.apply(tone(30), None, ("speed",), seeded())
    assert set(lengths.tolist()) == {8_000, 7_273}
    heard = {(int(length), crossings(row, int(length))) for row, length in zip(augmented, lengths, strict=True)}
    assert {(length, round(count, -1)) for length, count in heard} == {(7_273, 100), (8_000, 100), (8_000, 90)}


def test_full_rows_stay_full_where_none_got_faster() -> None:
    seeds = (seed for seed in range(100) if (torch.randint(3, (2,), generator=seeded(seed)) < 2).all())
    augmented, lengths = augment.apply(tone(2), None, ("speed",), seeded(next(seeds)))
    assert lengths is None
    assert augmented.shape == (2, 8_000)


def test_augmentations_come_in_one_order_whatever_the_order_of_their_names() -> None:
    forward, _ = augment.apply(tone(4), None, ("gain", "noise"), seeded())
    backward, _ = augment.apply(tone(4), None, ("noise", "gain"), seeded())
    assert torch.equal(forward, backward)
