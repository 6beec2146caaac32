"""Decoders that crash or hang, and broken files of every kind."""

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import clip_of, corpus_of, tone

from audioconfit import audio
from audioconfit.audio import decoding, parts
from audioconfit.audio.decoding import Decoded
from audioconfit.audio.preparing import Map
from audioconfit.corpora import Clip, Corpus


def in_a_fork(decode: Callable[[Clip], Decoded]) -> Map:
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


def _patched(decode: Callable[[Clip], Decoded], function: Callable[[int], int], number: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's time limit has a handler
    faulthandler.disable()  # pytest's, which would print the crash
    parts.read, parts.PATIENCE_SECONDS = decode, 0.5  # type: ignore[assignment]
    function(number)


def crash(clip: Clip) -> Decoded:
    """A decoder that a certain clip kills."""
    if clip.key == "0001.wav":
        os.kill(os.getpid(), signal.SIGSEGV)
    return decoding.read(clip)


def hang(clip: Clip) -> Decoded:
    """A decoder that a certain clip stops."""
    if clip.key == "0001.wav":
        time.sleep(60)
    return decoding.read(clip)


@pytest.mark.parametrize("decode", [crash, hang])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_clip_that_kills_its_process_is_decoded_alone(tmp_path: Path, decode: Callable[[Clip], Decoded]) -> None:
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
