"""Decoding against tones and against torchaudio, and a store that survives what is done to it."""

import faulthandler
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float32
from numpy import ndarray

from audioconfit import audio
from audioconfit.audio import parts
from audioconfit.audio.preparing import Map
from audioconfit.corpora import Clip, Corpus


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> Float32[ndarray, " samples"]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def clip_of(path: Path, **about: object) -> Clip:
    return Clip(path.name, path, ("tone",), **about)  # type: ignore[arg-type]


def corpus_of(folder: Path, count: int = 3, seconds: float = 0.1) -> Corpus:
    """`count` tones of their own frequencies, in two classes."""
    folder.mkdir(exist_ok=True)
    clips = []
    for place in range(count):
        path = folder / f"{place:04d}.wav"
        soundfile.write(path, tone(16_000, seconds, 200.0 + 7 * place), 16_000)
        clips.append(Clip(path.name, path, (("crow", "wren")[place % 2],)))
    return Corpus("birds", tuple(clips))


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


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_resampling_is_torchaudios(rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    theirs = torchaudio.functional.resample(torch.from_numpy(noise), rate, 16_000).numpy()
    np.testing.assert_allclose(audio.resample(noise, rate, 16_000), theirs, atol=2e-4)


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
        "text.wav": "not audio: Format not recognised",
        "apple.m4a": "not audio: .m4a has no decoder here, convert it to FLAC or WAV",
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


# --- the store ----------------------------------------------------------------------------------------------------


def test_a_worker_needs_nothing_but_the_folder(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "birds", 70)
    told: list[tuple[int, int]] = []
    waveforms = audio.prepare(corpus, tmp_path / "store", progress=lambda done, total: told.append((done, total)))
    there = audio.load(tmp_path / "store")
    assert there.corpus == waveforms.corpus == replace(corpus, folder=None)
    assert told[0] == (0, 70)
    assert told[-1] == (70, 70)
    assert sorted(told) == told
    for clip in there.corpus.clips:
        np.testing.assert_array_equal(there[clip.key], np.rint(audio.decode(clip) * 32_768))
    assert there.seconds("0003.wav") == 0.1
    assert there.total_seconds == pytest.approx(7.0)
    assert not there["0003.wav"].flags.writeable


def test_a_finished_store_is_opened_and_not_made_again(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "birds")
    audio.prepare(corpus, tmp_path / "store")
    before = (tmp_path / "store" / "samples.i16").stat()
    audio.prepare(corpus, tmp_path / "store")
    assert (tmp_path / "store" / "samples.i16").stat() == before


def test_equal_recordings_have_an_equal_fingerprint_wherever_they_are(tmp_path: Path) -> None:
    here, there = corpus_of(tmp_path / "here"), corpus_of(tmp_path / "there")
    one, two = audio.prepare(here, tmp_path / "one"), audio.prepare(there, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    relabelled = replace(here, clips=(replace(here.clips[0], labels=("owl",)), *here.clips[1:]))
    assert audio.prepare(relabelled, tmp_path / "three").fingerprint != one.fingerprint


def test_a_changed_recording_is_noticed(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "birds")
    before = audio.prepare(corpus, tmp_path / "store")
    os.utime(corpus.clips[0].path, (0, 0))
    assert audio.prepare(corpus, tmp_path / "store").fingerprint == before.fingerprint  # touched, not changed
    soundfile.write(corpus.clips[0].path, tone(16_000, 0.3), 16_000)
    after = audio.prepare(corpus, tmp_path / "store")
    assert after.fingerprint != before.fingerprint
    assert after.seconds("0000.wav") == 0.3


def test_half_a_store_is_refused_and_made_again(tmp_path: Path) -> None:
    corpus, store = corpus_of(tmp_path / "birds"), tmp_path / "store"
    with pytest.raises(ValueError, match="holds no finished store"):
        audio.load(store)
    whole = audio.prepare(corpus, store)
    with (store / "samples.i16").open("r+b") as samples:
        samples.truncate(100)
    with pytest.raises(ValueError, match="has 100 bytes, its index says 9600"):
        audio.load(store)
    assert audio.prepare(corpus, store).fingerprint == whole.fingerprint
    (store / "index.json").write_text('{"format": 1, "ident')
    with pytest.raises(ValueError, match="holds no finished store"):
        audio.load(store)
    assert audio.prepare(corpus, store).fingerprint == whole.fingerprint


def test_a_killed_preparation_goes_on_behind_its_finished_parts(tmp_path: Path) -> None:
    corpus, store = corpus_of(tmp_path / "birds", 32 * 8), tmp_path / "store"
    soundfile.write(tmp_path / "long.wav", tone(44_100, 4.0), 44_100)
    for clip in corpus.clips:  # slow enough to be killed on the way
        clip.path.unlink()
        clip.path.hardlink_to(tmp_path / "long.wav")
    script = (
        "import pickle, sys; from pathlib import Path; from audioconfit import audio\n"
        "audio.prepare(pickle.load(sys.stdin.buffer), Path(sys.argv[1]), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(corpus))
    process.stdin.close()
    until = time.monotonic() + 60
    while len(list(store.glob("parts-*/*.json"))) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(ValueError, match="holds no finished store"):
        audio.load(store)
    told: list[int] = []
    waveforms = audio.prepare(corpus, store, progress=lambda done, total: told.append(done))
    assert told[0] >= 2 * 32  # of the four files that were seen one is the plan
    assert waveforms.total_seconds == 4.0 * len(corpus.clips)
    assert sorted(path.name for path in store.iterdir()) == [".lock", "index.json", "samples.i16"]


def test_recordings_that_vanish_on_the_way_leave_no_store_without_them(tmp_path: Path) -> None:
    corpus, store = corpus_of(tmp_path / "birds", 4), tmp_path / "store"

    def unplugged(function: Callable[[int], int], numbers: Iterable[int]) -> Iterator[int]:
        (tmp_path / "birds").rename(tmp_path / "elsewhere")
        yield from map(function, numbers)

    with pytest.raises(ValueError, match=r"birds: 4 recordings vanished on the way, such as .*0000\.wav"):
        audio.prepare(corpus, store, map=unplugged)
    (tmp_path / "elsewhere").rename(tmp_path / "birds")
    assert not audio.prepare(corpus, store).faults


# --- decoders that crash or hang ----------------------------------------------------------------------------------


def in_a_fork(decode: Callable[[Clip], Float32[ndarray, " samples"]]) -> Map:
    """A map whose processes decode with `decode`, and are started again when they die."""

    def run(function: Callable[[int], int], numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            for _ in range(4):
                process = get_context("fork").Process(target=_patched, args=(decode, function, number))
                process.start()
                process.join()
                if process.exitcode == 0:
                    yield function(number)
                    break

    return run


def _patched(
    decode: Callable[[Clip], Float32[ndarray, " samples"]], function: Callable[[int], int], number: int
) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's time limit has a handler
    faulthandler.disable()  # pytest's, which would print the crash
    parts.decode, parts.PATIENCE_SECONDS = decode, 0.5
    function(number)


def crash(clip: Clip) -> Float32[ndarray, " samples"]:
    """A decoder that a certain clip kills."""
    if clip.key == "0001.wav":
        os.kill(os.getpid(), signal.SIGSEGV)
    return audio.decode(clip)


def hang(clip: Clip) -> Float32[ndarray, " samples"]:
    """A decoder that a certain clip stops."""
    if clip.key == "0001.wav":
        time.sleep(60)
    return audio.decode(clip)


@pytest.mark.parametrize("decode", [crash, hang])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_clip_that_kills_its_process_is_decoded_alone(
    tmp_path: Path, decode: Callable[[Clip], Float32[ndarray, " samples"]]
) -> None:
    """Alone it is fine here, so it was not at fault and is kept."""
    waveforms = audio.prepare(corpus_of(tmp_path, 4), tmp_path / "store", map=in_a_fork(decode))
    assert not waveforms.faults
    assert len(waveforms.corpus.clips) == 4


@pytest.mark.parametrize(
    ("body", "patience", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60.0, "not audio: crashes the decoder (SIGSEGV)"),
        ("import time; time.sleep(60)", 0.5, "not audio: decoding it takes over 0.5 s"),
    ],
)
def test_a_clip_that_kills_its_own_process_too_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, patience: float, reason: str
) -> None:
    monkeypatch.setattr(parts, "worker_command", lambda *words: [sys.executable, "-c", body])
    monkeypatch.setattr(parts, "PATIENCE_SECONDS", patience)
    monkeypatch.setattr(parts, "STARTING_SECONDS", 0.0)
    corpus = corpus_of(tmp_path, 4)
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(parts.rows_of(corpus.clips)))
    (folder / "00000.at").write_text("1\n")  # where an earlier process died
    assert parts.prepare_part(folder, 0) == 4
    entries = parts.read_part(folder, 0)
    assert entries is not None
    assert [entry[0] for entry in entries] == [1600, reason, 1600, 1600]


def test_the_preparers_own_trouble_is_not_the_clips_fault(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    corpus = corpus_of(tmp_path / "birds")

    def without_result(function: Callable[[int], int], numbers: Iterable[int]) -> list[int]:
        return [3 for _ in numbers]

    with pytest.raises(RuntimeError, match=r"part 0 .* was not prepared"):
        audio.prepare(corpus, store, map=without_result)


# --- broken files of every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_are_prepared_or_reported(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    formats = {"wav": {}, "flac": {}, "ogg": {"subtype": "VORBIS"}, "opus": {"format": "OGG", "subtype": "OPUS"}}
    originals = []
    for suffix, how in formats.items():
        soundfile.write(tmp_path / f"whole.{suffix}", tone(16_000, 0.25), 16_000, **how)
        originals.append(tmp_path / f"whole.{suffix}")
    clips = [clip_of(path) for path in originals]
    for number in range(count):
        original = originals[number % len(originals)]
        path = tmp_path / f"{number:05d}{original.suffix}"
        path.write_bytes(mutated(original.read_bytes(), rng))
        clips.append(clip_of(path))
    waveforms = audio.prepare(Corpus("fuzz", tuple(clips)), tmp_path / "store")
    assert len(waveforms.corpus.clips) + len(waveforms.faults) == len(clips)
    assert {path.name for path in originals} <= set(waveforms.offsets)
    assert not [fault for fault in waveforms.faults if "crash" in fault.reason or "takes over" in fault.reason]


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed anywhere or in the header, the end missing, or a stretch replaced by noise."""
    changed, kind = bytearray(whole), rng.integers(4)
    if kind < 2:
        for place in rng.integers(0, (len(whole), 200)[kind], rng.integers(1, 9)):
            changed[place] = rng.integers(256)
    elif kind == 2:
        del changed[rng.integers(len(whole)) :]
    else:
        first, last = sorted(rng.integers(0, len(whole), 2))
        changed[first:last] = rng.bytes(int(rng.integers(64)))
    return bytes(changed)
