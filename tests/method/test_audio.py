"""Decoding against tones; faulty recordings are left out by name and reason."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import clip_of, corpus_of, tone

from audioconfit import audio
from audioconfit.corpora import Clip, Corpus

# --- decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "how"),
    [
        ("a.wav", 44_100, {}),
        ("a.wav", 22_050, {"subtype": "PCM_24"}),
        ("a.wav", 8_000, {"subtype": "ULAW"}),
        ("a.flac", 48_000, {}),
        ("a.ogg", 32_000, {"subtype": "VORBIS"}),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", 44_100, {}),
        ("a.au", 22_050, {}),
        ("SA1.WAV", 16_000, {"format": "NIST", "subtype": "PCM_16"}),
    ],
)
def test_a_tone_is_the_same_tone_in_every_format(tmp_path: Path, name: str, rate: int, how: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, tone(rate), rate, **how)
    decoded = audio.decode(clip_of(tmp_path / name))
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - 8_000) <= (1152 if name == "a.mp3" else 1)
    middle = slice(2_000, 6_000)
    spectrum = np.abs(np.fft.rfft(decoded[middle] * np.hanning(4_000)))
    assert spectrum.argmax() == 110  # 440 Hz in steps of 4 Hz
    assert np.abs(decoded[middle]).max() == pytest.approx(0.5, abs=0.03)


def loudness_after_resampling(rate: int, hertz: float) -> float:
    """Of a tone of amplitude 1, in the middle of what resampling to 16 kHz leaves of it."""
    heard = audio.resample(2 * tone(rate, 1.0, hertz), rate, 16_000)[4_000:12_000]
    return float(np.sqrt(2 * np.mean(heard.astype(np.float64) ** 2)))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_resampling_keeps_what_fits_and_removes_what_would_alias(rate: int) -> None:
    assert loudness_after_resampling(rate, 1_000) == pytest.approx(1.0, abs=1e-3)
    assert loudness_after_resampling(rate, 7_000) == pytest.approx(1.0, abs=0.01)
    assert loudness_after_resampling(rate, 9_000) < 1e-4


@given(rate=st.integers(1_000, 400_000), samples=st.integers(1, 2_000))
@settings(deadline=None)
def test_any_rate_gives_the_length_it_should(rate: int, samples: int) -> None:
    ones = np.ones(samples, np.float32)
    resampled = audio.resample(ones, rate, 16_000)
    assert len(resampled) == -(-samples * 16_000 // rate)
    assert np.abs(resampled).max() < 2


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16_000), np.zeros(8_000)], axis=1), 16_000)
    np.testing.assert_allclose(audio.decode(clip_of(tmp_path / "a.wav")), tone(16_000) / 2, atol=1e-4)


def test_sixteen_bit_recordings_are_kept_bit_by_bit(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32_767, -32_768, 123] * 100, np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    waveforms = audio.prepare(Corpus("one", (clip_of(tmp_path / "a.wav"),)), tmp_path / "store")
    np.testing.assert_array_equal(waveforms["a.wav"], samples)


def test_floats_past_full_scale_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 8 * tone(16_000), 16_000, subtype="FLOAT")
    decoded = audio.decode(clip_of(tmp_path / "a.wav"))
    np.testing.assert_allclose(decoded, 2 * tone(16_000), atol=1e-3)


@pytest.mark.parametrize("decibels", [-60, -80, -100, -140])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_quiet_float_recording_keeps_its_shape_in_the_store(tmp_path: Path, rate: int, decibels: int) -> None:
    sound = tone(rate)
    soundfile.write(tmp_path / "a.wav", sound * 10 ** (decibels / 20), rate, subtype="FLOAT")
    kept = audio.to_int16(tmp_path / "a.wav")[200:-200].astype(np.float64)
    assert 16_000 <= np.abs(kept).max() <= 32_767
    assert np.corrcoef(kept, audio.resample(sound, rate, 16_000)[200:-200])[0, 1] > 0.999_999


@pytest.mark.parametrize("channels", [1, 2])
def test_quiet_sixteen_bit_recordings_are_kept_at_their_level(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).integers(-3, 4, (8_000, channels)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    np.testing.assert_array_equal(audio.to_int16(tmp_path / "a.wav"), np.rint(samples.mean(axis=1)))


def test_a_stretch_is_cut_in_the_recordings_own_time(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.concatenate([np.zeros(22_050), tone(22_050, 1.0)]), 22_050)
    clip = clip_of(tmp_path / "a.wav", start=1.0, end=1.5)
    np.testing.assert_allclose(audio.decode(clip)[100:-100], tone(16_000)[100:-100], atol=1e-2)
    assert audio.duration(clip) == pytest.approx(0.5)
    assert len(audio.decode(replace(clip, end=None))) == 16_000
    with pytest.raises(audio.Unreadable, match=r"empty: starts at 3\.0 s of 2\.000 s"):
        audio.decode(replace(clip, start=3.0, end=None))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_rows_of_parquet_and_arrow_files_are_decoded(tmp_path: Path, suffix: str) -> None:
    encoded = []
    for hertz in (200.0, 400.0, 800.0):
        memory = io.BytesIO()
        soundfile.write(memory, tone(16_000, 0.1, hertz), 16_000, format="FLAC")
        encoded.append({"bytes": memory.getvalue(), "path": None})
    table, path = pa.table({"audio": pa.array(encoded)}), tmp_path / f"a{suffix}"
    if suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    else:
        pq.write_table(table, path, row_group_size=2)
    for row, hertz in enumerate((200.0, 400.0, 800.0)):
        np.testing.assert_allclose(audio.decode(clip_of(path, row=row)), tone(16_000, 0.1, hertz), atol=1e-4)


# --- faults -------------------------------------------------------------------------------------------------------


def faulty(folder: Path) -> dict[str, str]:
    """Files with a fault each, and the reason that is to be given."""
    floats = partial(soundfile.write, samplerate=16_000, subtype="FLOAT")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "frameless.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(8_000), 16_000)
    soundfile.write(folder / "short.wav", tone(16_000, 0.005), 16_000)
    floats(folder / "nan.wav", np.where(np.arange(8_000) == 100, np.nan, tone(16_000)))
    floats(folder / "inf.wav", np.where(np.arange(8_000) == 100, np.inf, tone(16_000)))
    (folder / "text.wav").write_text("This is a text file named .wav.")
    (folder / "apple.m4a").write_bytes(bytes(100))
    soundfile.write(folder / "slow.wav", tone(16_000), 10)
    return {
        "empty.wav": "empty",
        "frameless.wav": "empty",
        "silent.wav": "silent",
        "short.wav": "too short: 0.0050 s",
        "nan.wav": "non-finite",
        "inf.wav": "non-finite",
        "text.wav": "not audio: no decoder knows its format",
        "apple.m4a": "not audio: no decoder knows its format",
        "slow.wav": "not audio: a sample rate of 10 Hz",
        "gone.wav": "missing",
    }


def test_faulty_clips_are_left_out_by_name_and_reason(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    reasons = faulty(tmp_path)
    clips = (*corpus.clips, *(Clip(name, tmp_path / name, ("crow",)) for name in reasons))
    waveforms = audio.prepare(replace(corpus, clips=clips), tmp_path / "store")
    assert {fault.key: fault.reason for fault in waveforms.faults} == reasons
    assert waveforms.corpus.clips == corpus.clips
    assert audio.load(tmp_path / "store").faults == waveforms.faults


def test_a_class_without_audio_is_refused_by_name(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    (tmp_path / "empty.wav").touch()
    clips = (*corpus.clips, Clip("empty.wav", tmp_path / "empty.wav", ("owl",)))
    for _ in range(2):  # the second time from the finished store
        with pytest.raises(ValueError, match=r"no clip of owl holds audio: empty\.wav \(empty\)"):
            audio.prepare(replace(corpus, clips=clips), tmp_path / "store")


def test_clips_under_a_receptive_field_become_faults(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 4)
    soundfile.write(tmp_path / "0000.wav", tone(16_000, 0.02), 16_000)
    waveforms = audio.prepare(corpus, tmp_path / "store")
    assert waveforms.at_least(320) is waveforms
    assert [fault.reason for fault in waveforms.at_least(400).faults] == ["too short: 0.0200 s of 0.0250 s"]
    with pytest.raises(ValueError, match="no clip of crow, wren holds audio"):
        waveforms.at_least(2_000)
