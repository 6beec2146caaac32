"""A store that survives what is done to it."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import corpus_of, tone

from audioconfit import audio
from audioconfit.audio import preparing
from audioconfit.audio.parts import digest


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


@pytest.mark.parametrize(("rate", "kept"), [(16_000, True), (44_100, False)])
def test_a_store_of_the_first_format_opens_and_is_made_again(tmp_path: Path, rate: int, kept: bool) -> None:
    """Under its fingerprint where its recordings are decoded as they were then, and not where they are resampled."""
    corpus, store = corpus_of(tmp_path / "birds", 2), tmp_path / "store"
    for take, clip in enumerate(corpus.clips, 1):
        soundfile.write(clip.path, tone(rate) / take, rate)
    made = audio.prepare(corpus, store)
    digests = [(clip, digest(clip)) for clip in corpus.clips]
    first = preparing._fingerprint(corpus, digests, ())  # version 1 hashed the files alone
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "format": 1, "identity": "of then", "fingerprint": first}))
    assert audio.load(store).fingerprint == first
    again = audio.prepare(corpus, store)
    assert again.fingerprint == made.fingerprint
    assert (again.fingerprint == first) == kept


def test_equal_recordings_have_an_equal_fingerprint_wherever_they_are(tmp_path: Path) -> None:
    here, there = corpus_of(tmp_path / "here"), corpus_of(tmp_path / "there")
    one, two = audio.prepare(here, tmp_path / "one"), audio.prepare(there, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    relabelled = replace(here, clips=(replace(here.clips[0], labels=("owl",)), *here.clips[1:]))
    assert audio.prepare(relabelled, tmp_path / "three").fingerprint != one.fingerprint


def test_recordings_that_are_the_same_byte_for_byte_are_known(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "birds", 4)
    for take, clip in enumerate(corpus.clips[:2], 1):
        soundfile.write(clip.path, tone(16_000) / take, 16_000)
    for clip, original in zip(corpus.clips[2:], corpus.clips, strict=False):
        clip.path.write_bytes(original.path.read_bytes())
    copied = audio.prepare(corpus, tmp_path / "store")
    keys = [clip.key for clip in corpus.clips]
    assert copied.corpus.copies == ((keys[0], keys[2]), (keys[1], keys[3]))
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    del index["digests"]  # as earlier versions left it
    (tmp_path / "store" / "index.json").write_text(json.dumps(index))
    assert audio.load(tmp_path / "store").corpus.copies == ()


def test_stretches_of_one_file_are_no_copies(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "birds", 1)
    whole = corpus.clips[0]
    soundfile.write(whole.path, tone(16_000), 16_000)
    stretches = tuple(
        replace(whole, key=f"{whole.key}#{start}", start=start, end=start + 0.05) for start in (0.0, 0.05)
    )
    assert audio.prepare(replace(corpus, clips=stretches), tmp_path / "store").corpus.copies == ()


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
