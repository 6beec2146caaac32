"""Decoding a corpus part by part, in processes that may die.

A part is PART_CLIPS clips; finished it is `00007.i16` and `00007.json`, so whoever starts next goes on behind it.
Before each clip its number goes into `00007.at`: a native decoder that crashes or hangs takes its process along, and
the next one finds the suspect there and decodes it in a process of its own, whose end is its answer.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from numpy import ndarray

from audioconfit import files
from audioconfit.audio.decoders import Unreadable
from audioconfit.audio.decoding import SCALE, Decoded, read, read_source
from audioconfit.audio.waveforms import clips_of, rows_of
from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip

PART_CLIPS = 32
PATIENCE_SECONDS = 120.0  # for one clip; an hour of audio decodes in about one
STARTING_SECONDS = 60.0  # for a process of its own to start in, on a busy machine
PLAN = "plan.json"
MISSING = "missing"
Kept = tuple[Int16[ndarray, " samples"], int]  # the samples, and the version of decoding behind them


def count_parts(clips: int) -> int:
    """How many parts that many clips make."""
    return -(-clips // PART_CLIPS)


def prepare_part(folder: Path, number: int) -> int:
    """Decode part `number` of the plan in `folder` unless it is finished; its number of clips.

    Runs in a worker process: a clip that hangs ends the process by SIGALRM, and whoever started it starts it again.
    """
    clips = _plan(folder, (folder / PLAN).stat().st_mtime_ns)[number * PART_CLIPS : (number + 1) * PART_CLIPS]
    if read_part(folder, number) is None:
        # A task that a cluster handed out twice waits and finds it done.
        with files.locked(folder / f"{number:05d}.lock"), (folder / f"{number:05d}.at").open("a+b") as marks:
            if read_part(folder, number) is None:
                _decode_part(folder, number, clips, marks.fileno())
    return len(clips)


def read_part(folder: Path, number: int) -> list[Any] | None:
    """[samples, digest] or [reason] per clip of a finished part, else None."""
    try:
        entries: list[Any] = json.loads((folder / f"{number:05d}.json").read_text())
        size = (folder / f"{number:05d}.i16").stat().st_size
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    # After a power cut the index can have survived the samples.
    return entries if size == 2 * sum(entry[0] for entry in entries if len(entry) == 2) else None


@lru_cache(maxsize=1)
def _plan(folder: Path, modified: int) -> tuple[Clip, ...]:
    return clips_of(json.loads((folder / PLAN).read_text()))


def _decode_part(folder: Path, number: int, clips: Iterable[Clip], journal: int) -> None:
    os.lseek(journal, 0, os.SEEK_SET)
    begun = os.read(journal, 1 << 16)
    suspects = {int(word) for word in begun.split()}
    entries: list[list[Any]] = []
    with files.whole(folder / f"{number:05d}.i16") as temporary, temporary.open("wb") as out:
        for place, clip in enumerate(clips):
            try:
                if place in suspects:
                    samples, version = _decode_alone(clip)
                else:
                    os.write(journal, f"{place}\n".encode())
                    samples, version = _decode_in_time(clip)
                    os.ftruncate(journal, len(begun))
                out.write(samples.tobytes())
                entries.append([len(samples), digest(clip) + (f"-{version}" if version > 1 else "")])
            except Unreadable as fault:
                os.ftruncate(journal, len(begun))
                entries.append([str(fault)])
    files.write(folder / f"{number:05d}.json", json.dumps(entries))


def _decode_in_time(clip: Clip) -> Kept:
    """Decode here. SIGALRM's default action ends the process where Python's handlers would wait for native code; where
    there is no such signal (Windows), a clip that hangs is waited for.
    """
    if not hasattr(signal, "setitimer"):
        return keep(clip)
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:  # someone else's alarm clock
        return keep(clip)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        return keep(clip)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def to_int16(recording: Path | bytes, *, longest_seconds: float | None = None) -> Int16[ndarray, " samples"]:
    """A recording, a file or its bytes, decoded as a corpus' clips are kept. Raises Unreadable, also for one that is
    longer than `longest_seconds`.
    """
    if isinstance(recording, Path) and not recording.is_file():
        raise Unreadable(MISSING)
    return _rounded(read_source(recording, longest_seconds=longest_seconds))


def keep(clip: Clip) -> Kept:
    """The decoded clip as it is kept, and the version of decoding behind it."""
    if not clip.path.is_file():
        raise Unreadable(MISSING)
    decoded = read(clip)
    return _rounded(decoded), decoded.version


def _rounded(decoded: Decoded) -> Int16[ndarray, " samples"]:
    samples = decoded.samples * np.float32(SCALE)
    return np.minimum(np.rint(samples, out=samples), SCALE - 1, out=samples).astype(np.int16)


def _decode_alone(clip: Clip) -> Kept:
    """Decode in a process of its own, whose crash or hang is the clip's fault."""
    with tempfile.TemporaryDirectory() as folder:  # not an open file, which Windows lets nobody else write
        out = Path(folder) / "clip.i16"
        command = worker_command("alone", json.dumps(rows_of([clip])), str(out))
        try:
            timeout = STARTING_SECONDS + PATIENCE_SECONDS
            done = subprocess.run(command, env=worker_environment(), capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Unreadable(f"not audio: decoding it takes over {PATIENCE_SECONDS:g} s") from None
        if done.returncode < 0:
            raise Unreadable(f"not audio: crashes the decoder ({signal.Signals(-done.returncode).name})")
        if done.returncode:
            raise Unreadable(done.stderr.decode(errors="replace").strip().splitlines()[-1])
        return np.fromfile(out, np.int16), int(done.stdout)


def worker_command(*words: str) -> list[str]:
    """A process of audioconfit.audio.worker, which imports neither torch nor the caller's main module."""
    return [sys.executable, "-m", "audioconfit.audio.worker", *words]


def worker_environment() -> dict[str, str]:
    """One thread each, and the modules of this process."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def digest(clip: Clip) -> str:
    """Hash of the recording as it is stored: unlike decoded samples it does not depend on the machine's arithmetic."""
    if clip.row is not None:
        return hashlib.blake2b(parquet.audio_bytes(clip.path, clip.row)[0], digest_size=16).hexdigest()
    stamp = clip.path.stat()
    return _file_digest(clip.path, stamp.st_size, stamp.st_mtime_ns)


@lru_cache(maxsize=1)  # the stretches of a long recording follow each other
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
