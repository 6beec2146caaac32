"""One clip from its file to 16 kHz mono float32."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32
from numpy import ndarray

from audioconfit.audio.resampling import resample
from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip

SAMPLE_RATE = 16_000
SCALE = 32_768  # int16 / SCALE is the float waveform; 16-bit recordings at 16 kHz are kept bit by bit
SHORTEST_SECONDS = 0.01  # no frame of anything fits; each backbone has its own, longer limit beside this one
RATES = (1_000, 400_000)  # Hz; a header that says anything else is broken
BLOCK_SAMPLES = 1 << 20  # read at once, over all channels: a header's length is a claim, not a size to allocate


class Unreadable(Exception):  # noqa: N818
    """A clip without usable audio; the message is the reason: empty, silent, too short, non-finite, not audio: ..."""


def decode(clip: Clip) -> Float32[ndarray, " samples"]:
    """The clip, from `clip.start` to `clip.end`, at 16 kHz mono in [-1, 1]. Raises Unreadable.

    Channels are averaged. A recording that goes past full scale (float files, overshoot of lossy codecs and of the
    resampling) is scaled down to fit and not clipped.
    """
    with _opened(clip) as file:
        samples, rate = _read(file, clip), file.samplerate
    peak = _peak(samples)
    if not np.isfinite(peak):
        raise Unreadable("non-finite")
    if peak == 0:
        raise Unreadable("silent")
    if len(samples) < SHORTEST_SECONDS * rate:
        raise Unreadable(f"too short: {len(samples) / rate:.4f} s")
    samples = resample(samples, rate, SAMPLE_RATE)
    peak = _peak(samples)
    if not np.isfinite(peak):
        raise Unreadable("non-finite")
    return samples / peak if peak > 1 else samples


def _peak(samples: Float32[ndarray, " samples"]) -> np.float32:
    """The largest magnitude; NaN if any sample is."""
    return max(samples.max(), -samples.min())


def duration(clip: Clip) -> float:
    """Seconds by the recording's header, which is a claim; 0 where there is none."""
    try:
        with _opened(clip) as file:
            whole = file.frames / file.samplerate
    except Unreadable:
        return 0.0
    return max(0.0, min(whole, clip.end or whole) - (clip.start or 0.0))


@contextmanager
def _opened(clip: Clip) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(_source(clip)) as file:
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise Unreadable(f"not audio: a sample rate of {file.samplerate} Hz")
            yield file
    except Unreadable:
        raise
    except Exception as error:  # of whatever kind: what half a dozen parsers raise is the clip's fault
        raise Unreadable(f"not audio: {_reason(error, clip.path)}") from error


def _source(clip: Clip) -> str | io.BytesIO:
    if clip.row is not None:
        audio, _ = parquet.audio_bytes(clip.path, clip.row)
        if not audio:
            raise Unreadable("empty")
        return io.BytesIO(audio)
    if clip.path.stat().st_size == 0:
        raise Unreadable("empty")
    return str(clip.path)


def _read(file: soundfile.SoundFile, clip: Clip) -> Float32[ndarray, " samples"]:
    """The clip's stretch of an open file, channels averaged, read block by block until the data ends."""
    first = round((clip.start or 0.0) * file.samplerate)
    left = None if clip.end is None else round(clip.end * file.samplerate) - first
    if first >= file.frames > 0:
        raise Unreadable(f"empty: starts at {clip.start} s of {file.frames / file.samplerate:.3f} s")
    if first:
        file.seek(first)
    step = ceil(BLOCK_SAMPLES / file.channels)
    dtype = "int16" if file.subtype == "PCM_16" else "float32"  # numpy turns integers into floats faster
    blocks = []
    while left is None or left > 0:
        block = file.read(step if left is None else min(step, left), dtype=dtype, always_2d=True)
        if not len(block):
            break
        blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32))
        if len(block) < step:
            break
        left = None if left is None else left - len(block)
    if not blocks:
        raise Unreadable("empty")
    samples = (np.concatenate(blocks) if len(blocks) > 1 else blocks[0]).astype(np.float32, copy=False)
    return samples * np.float32(1 / SCALE) if dtype == "int16" else samples


def _reason(error: Exception, path: Path) -> str:
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    if path.suffix.lower() in (".m4a", ".aac", ".wma", ".mp4", ".webm"):
        return f"{path.suffix} has no decoder here, convert it to FLAC or WAV"
    return text.strip().rstrip(".") or type(error).__name__
