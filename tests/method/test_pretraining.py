"""Pre-training: views from (seed, step) alone, targets that mean what they say, a kill that leaves no trace."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from audioconfit import __main__ as command
from audioconfit import encoders, pretraining
from audioconfit.encoders.layers import standardise
from audioconfit.pretraining import Objective, Run, Setting, blank, held_out, rooms, speech, views
from audioconfit.pretraining import run as training
from audioconfit.pretraining.targets import (
    BANDS,
    LAGS,
    Targets,
    course_of,
    k_means,
    log_mel,
    melody_of,
    movement_of,
    nearest,
)
from audioconfit.pretraining.views import Views

NAMES = sorted(pretraining.ARCHITECTURES)


@pytest.fixture(scope="module")
def targets() -> Targets:
    return Targets(0)


def a_batch(sound: torch.Tensor, pitch: torch.Tensor) -> Views:
    """A batch of this sound with this pitch; of its making nothing is known."""
    rows, frames = pitch.shape
    making = torch.zeros(rows, len(views.at(0, 0).making[0]))
    return Views(sound, sound, pitch, making, torch.zeros(rows, frames, dtype=torch.bool))


def noise(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, views.CLIP, generator=torch.Generator().manual_seed(seed))


# Views


def test_a_batch_is_the_same_whatever_was_made_before() -> None:
    first = views.at(5, 7)
    views.at(5, 8)
    views.utterance.cache_clear()
    views.language.cache_clear()
    again = views.at(5, 7)
    for name in ("sound", "clean", "pitch", "making", "hidden"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_other_seeds_and_steps_give_other_batches() -> None:
    one, step, seed = views.at(5, 7), views.at(5, 8), views.at(6, 7)
    assert not torch.equal(one.sound, step.sound)
    assert not torch.equal(one.sound, seed.sound)


def test_the_halves_of_a_batch_are_views_of_the_same_utterances() -> None:
    made = views.at(0, 3)
    assert len(made.sound) == 2 * views.ROWS
    first, second = made.making.chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(*made.sound.chunk(2))
    assert len(first.unique(dim=0)) == views.ROWS


def test_hidden_stretches_have_their_length_and_share() -> None:
    made = [views.at(1, step).hidden for step in range(12)]
    hidden = torch.cat([rows[: views.ROWS] for rows in made])
    assert not torch.cat([rows[views.ROWS :] for rows in made]).any()  # the second views are heard whole
    ends_early = [row.nonzero()[-1] == len(row) - 1 for row in hidden if row.any()]
    lengths = [
        len(run) for row in hidden for run in "".join("x" if cell else " " for cell in row.tolist()[:-8]).split() if run
    ]
    assert sorted(lengths)[len(lengths) // 4] >= views.MASKED_SPAN  # only the cut at the end makes shorter ones
    expected = 1 - (1 - views.MASKED_START) ** views.MASKED_SPAN
    assert hidden[:, views.MASKED_SPAN :].float().mean().item() == pytest.approx(expected, abs=0.05)
    assert any(ends_early)


def test_a_room_without_any_echo_is_a_room_too() -> None:
    one = views.at(0, 0).clean.numpy()[:1]
    heard = [rooms.recorded(one, np.random.default_rng(seed)) for seed in range(12)]  # a quarter of the rooms echo
    assert np.isfinite(np.stack(heard)).all()


def test_rooms_leave_the_voice_recognisable_and_the_sound_finite() -> None:
    clean = views.at(0, 0).clean.numpy()
    heard = rooms.recorded(clean, np.random.default_rng(0))
    assert heard.shape == clean.shape
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    alike = [abs(np.corrcoef(one, other)[0, 1]) for one, other in zip(clean, heard, strict=True)]
    assert np.median(alike) > 0.3
    assert not np.array_equal(clean, heard)


# Targets


def test_pitch_is_told_in_octaves_around_160_hz_and_only_where_voiced(targets: Targets) -> None:
    pitch = torch.zeros(2, 73)
    pitch[0], pitch[1, :36] = 320.0, 80.0
    melody = targets.of(a_batch(noise(2), pitch))["melody"]
    assert torch.equal(melody[0], torch.tensor([1.0, 1.0]).expand(73, 2))
    assert torch.equal(melody[1, :36], torch.tensor([1.0, -1.0]).expand(36, 2))
    assert torch.equal(melody[1, 36:], torch.tensor([-1.0, 0.0]).expand(37, 2))


def test_the_pitch_of_a_frame_is_that_of_its_middle() -> None:
    made = views.at(0, 0)
    numbers = [views.numbers_of(one.voice, one.manner) for one in around_the_first_step()]
    row = int((np.stack(numbers).astype(np.float32) == made.making[0].numpy()).all(axis=1).argmax())
    whole = around_the_first_step()[row]
    places = np.lib.stride_tricks.sliding_window_view(whole.sound, views.CLIP)[:: speech.STEP]
    start = int((places == made.clean[0].numpy()).all(axis=1).argmax())
    middles = start + (views.FIELD // 2 + views.HOP * np.arange(73)) // speech.STEP
    assert np.array_equal(made.pitch[0].numpy(), whole.pitch[middles].astype(np.float32))


def around_the_first_step() -> list[speech.Utterance]:
    return [views.utterance(0, number) for number in range(views.AROUND)]


def test_course_has_five_numbers_of_the_pitch_where_voiced() -> None:
    pitch = torch.zeros(1, 73)
    pitch[0, 10:60] = 160 * 2 ** torch.linspace(0, 1, 50)
    made = a_batch(noise(1), pitch)
    course = course_of(log_mel(made.sound), melody_of(made))[0]
    ramp = np.linspace(0, 1, 50)
    expected = [ramp.mean(), ramp.std(), np.quantile(ramp, 0.2), np.quantile(ramp, 0.8), 1 / 49]
    assert course[:5].tolist() == pytest.approx(expected, abs=1e-4)
    assert course[10].item() == pytest.approx(50 / 73)  # how much is voiced
    assert course[11].item() == pytest.approx(2 / 72)  # begins once, ends once


def test_movement_tells_how_far_how_fast_and_how_regularly() -> None:
    turn = 2 * math.pi * torch.arange(2400) / 24  # 24 frames a period
    cepstra = torch.stack([3 * torch.cos(turn), torch.sin(turn)], dim=1)[None]
    far, fast, *again = movement_of(cepstra)[0].unflatten(0, (-1, 2))
    assert far.exp().tolist() == pytest.approx([3 * math.sqrt(0.5), math.sqrt(0.5)], rel=1e-3)
    step = 2 * math.sin(2 * math.pi / 24)  # of two frames
    assert fast.exp().tolist() == pytest.approx([3 * step * math.sqrt(0.5), step * math.sqrt(0.5)], rel=1e-3)
    for lag, found in zip(LAGS, again, strict=True):
        assert found.tolist() == pytest.approx([math.cos(2 * math.pi * lag / 24)] * 2, abs=0.01)


def test_a_tone_lies_in_its_mel_band() -> None:
    time_ = torch.arange(views.CLIP) / 16_000
    low, high = (log_mel(torch.sin(2 * math.pi * hertz * time_)[None])[0] for hertz in (300.0, 3000.0))
    assert low.shape == (73, BANDS)
    assert (low.argmax(dim=1) == low[0].argmax()).all()
    assert high[0].argmax() > low[0].argmax() + 10


def test_k_means_finds_three_heaps() -> None:
    draw = torch.Generator().manual_seed(0)
    heaps = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = heaps.repeat_interleave(50, dim=0) + 0.1 * torch.randn(150, 2, generator=draw)
    centres = k_means(points, 3, rng=np.random.default_rng(2))
    owner = nearest(points, centres)
    assert [len(part.unique()) for part in owner.split(50)] == [1, 1, 1]
    assert len(owner.unique()) == 3


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    rates = [training.rate(step, 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert training.WARMUP - 2 <= top <= training.WARMUP
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(training.LR, rel=0.05)
    assert rates[-1] < 1e-5 * max(rates)


# Where it starts


@pytest.mark.parametrize("name", NAMES)
def test_filters_answer_to_their_own_frequencies(name: str) -> None:
    convolution = pretraining.untrained(Setting(name)).model.feature_extractor.conv_layers[0].conv
    response = torch.fft.rfft(convolution.weight.detach()[:, 0], 16_000).abs()
    peaks = response.argmax(dim=1).unflatten(0, (-1, blank.PHASES))
    assert (peaks.amax(dim=1) - peaks.amin(dim=1)).max() <= 40  # Hz: the phases of a filter
    centres = peaks.float().mean(dim=1)
    assert (centres.diff() > 0).all()
    assert centres[0] < 150
    assert centres[-1] > 6500


def test_each_filter_is_scaled_to_the_same_power() -> None:
    setting = Setting("wav2vec2-tiny")
    convolution = pretraining.untrained(setting).model.feature_extractor.conv_layers[0].conv
    sound = standardise(views.at(0, 0).sound)
    outputs = torch.nn.functional.conv1d(sound[:, None], convolution.weight, stride=160)
    power = outputs.square().mean(dim=(0, 2)).unflatten(0, (-1, blank.PHASES)).mean(dim=1)
    assert torch.allclose(power, torch.ones(len(power)), rtol=1e-3)


# Training


def test_every_parameter_learns_also_the_embedding_of_hidden_frames() -> None:
    run = Run(Setting("wavlm-tiny", steps=3))
    before = {name: value.clone() for name, value in run.encoder.named_parameters()}
    told = run.advance()
    assert set(told) == set(Objective.__dataclass_fields__)
    run.advance()
    assert [name for name, value in run.encoder.named_parameters() if torch.equal(value, before[name])] == []


def test_a_weight_of_zero_leaves_its_part_out() -> None:
    run = Run(Setting("wav2vec2-tiny", steps=2, objective=Objective(contrast=0.0)))
    before = run.heads.contrast.weight.clone()
    run.advance()
    assert torch.equal(run.heads.contrast.weight, before)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def command_line(folder: Path, *, steps: int) -> list[str]:
    words = ["pretrain", "hubert-tiny", "--out", str(folder), "--steps", str(steps), "--seed", "3"]
    return [sys.executable, "-m", "audioconfit", *words]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    steps = training.CHECKPOINT_STEPS + 3
    process = subprocess.Popen(command_line(killed, steps=steps), env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / "checkpoint.pt").exists()
    assert not (killed / "model.safetensors").exists()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seen: list[int] = []
    setting = Setting("hubert-tiny", seed=3, steps=steps)
    pretraining.pretrain(setting, killed, progress=lambda step, parts: seen.append(step))
    pretraining.pretrain(setting, whole)
    torch.set_num_threads(threads)
    assert seen == list(range(training.CHECKPOINT_STEPS + 1, steps + 1))
    assert digest(killed) == digest(whole)
    assert sorted(path.name for path in killed.iterdir()) == [
        *("config.json", "model.safetensors", "preprocessor_config.json", "pretraining.json")
    ]


def test_what_is_written_loads_like_any_local_folder(tmp_path: Path) -> None:
    encoder = pretraining.pretrain(Setting("wavlm-tiny", steps=1), tmp_path / "out")
    loaded = encoders.load(str(tmp_path / "out"), spec_augment=True)
    assert loaded.normalise
    assert loaded.receptive_field == views.FIELD
    sound = noise(2)
    assert torch.equal(loaded(sound), encoder(sound))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["mask_time_prob"] > 0
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 2_000_000


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    setting, seen = Setting("wav2vec2-tiny", steps=1), []
    pretraining.pretrain(setting, tmp_path)
    pretraining.pretrain(setting, tmp_path, progress=lambda step, parts: seen.append(step))
    assert seen == []


# Refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "wav2vec2", "--out", "new"], "Unknown backbone 'wav2vec2' to pre-train; choose one of"),
        (["pretrain", "wav2vec2-tiny", "--out", "new", "--steps", "0"], "0 steps train nothing"),
        (["pretrain", "wav2vec2-tiny", "--out", "new", "--seed", "-1"], "Seed -1 is negative"),
        (["pretrain", "wav2vec2-tiny", "--out", "new", "--threads", "0"], "--threads 0: choose 1 or more"),
        (["pretrain", "wav2vec2-tiny", "--out", "full"], "full holds something else; choose a folder that is new"),
        (["pretrain", "wav2vec2-tiny", "--out", "full/thesis.txt"], "thesis.txt is a file"),
        (["pretrain", "wav2vec2-tiny", "--out", "other"], "other holds another pre-training"),
    ],
)
def test_bad_input_is_refused_with_the_way_out(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, file in (("full", "thesis.txt"), ("other", "pretraining.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    assert command.main(words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_another_setting_is_refused(tmp_path: Path) -> None:
    Run(Setting("wav2vec2-tiny", steps=2)).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="left by another pre-training"):
        Run(Setting("wav2vec2-tiny", steps=3)).load(tmp_path / "checkpoint.pt")


# What it is for


@pytest.mark.slow
def test_a_short_pre_training_carries_over_to_speakers_that_were_not_heard(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    setting = Setting("wav2vec2-tiny", steps=150)
    encoder, untrained = pretraining.pretrain(setting, tmp_path / "out"), pretraining.untrained(setting).eval()
    reached = {
        task.name: [held_out.accuracy(task, embed) for embed in (untrained, encoder)] for task in held_out.tasks()
    }
    print(reached)
    for name in ("manners", "words"):
        before, after = reached[name]
        assert after > before + 0.05, name
