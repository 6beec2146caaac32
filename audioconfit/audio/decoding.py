"""One clip from its file to 16 kHz mono float32."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np
import soxr
from jaxtyping import Float32
from numpy import ndarray

from audioconfit.audio import decoders
from audioconfit.audio.containers import bytes_behind
from audioconfit.audio.decoders import Blocks, Source, Unreadable
from audioconfit.corpora import parquet
from audioconfit.corpora.clips import Clip

SAMPLE_RATE = 16_000
SCALE = 32_768  # int16 / SCALE is the float waveform; 16-bit recordings at 16 kHz are kept bit by bit
SHORTEST_SECONDS = 0.01  # no frame of anything fits; each backbone has its own, longer limit beside this one
VERSION = 2  # of decoding: what is decoded otherwise than version 1 did counts as another recording
QUIET = 2**-8  # -48 dBFS; int16 leaves 8 bits of such a peak, 1 or none of those of float recorders without gain
USUAL_RATE = 48_000  # Hz; where a limit of seconds is set, a recording of a higher rate may have as many samples
CANCELLED = 1e-3  # of the channels' energy: their mean has less only where they are each other's opposite

Decoder = Callable[[Source, float, float | None], Blocks]


@dataclass(frozen=True)
class Decoded:
    """A clip as 16 kHz mono in [-1, 1]."""

    samples: Float32[ndarray, " samples"]
    version: int  # of the way it was decoded: 1 where it gives the samples that it has always given


def decode(clip: Clip) -> Float32[ndarray, " samples"]:
    """The clip, from `clip.start` to `clip.end`, at 16 kHz mono in [-1, 1]. Raises Unreadable.

    Channels are averaged. A recording that goes past full scale (float files, overshoot of lossy codecs and of the
    resampling) is scaled down to fit and not clipped; one that int16 would not hold, being finer and QUIET, is scaled
    up. The scale is not kept: all encoders but WavLM base standardise each clip.
    """
    return read(clip).samples


def read(clip: Clip) -> Decoded:
    """`decode`, and which version of decoding it took."""
    return read_source(_source(clip), clip.start or 0.0, clip.end)


def read_source(
    source: Source, start: float = 0.0, end: float | None = None, *, longest_seconds: float | None = None
) -> Decoded:
    """A recording, a file or its bytes, from `start` to `end` seconds. Raises Unreadable.

    `longest_seconds` bounds the memory: what decodes to more is refused as soon as it has, whatever its header says.
    """
    if not (source if isinstance(source, bytes) else source.stat().st_size):
        raise Unreadable("empty")
    if behind := bytes_behind(source):
        raise Unreadable(f"cut short: {behind} bytes follow the samples that its header counts")
    quick, thorough = (
        partial(_bounded, decoder, longest_seconds) for decoder in (decoders.libsndfile, decoders.ffmpeg)
    )
    try:
        if decoders.by_libsndfile(source):
            return _by(quick, source, start, end, 1)
    except Unreadable:
        raise
    except Exception:  # of whatever kind: a header that lies stops libsndfile and not FFmpeg
        pass
    try:
        return _by(thorough, source, start, end, VERSION)
    except Unreadable:
        raise
    except Exception as error:  # what dozens of parsers raise is the clip's fault
        raise Unreadable(f"not audio: {str(error).strip().rstrip('.') or type(error).__name__}") from error


def _bounded(
    decoder: Decoder, longest_seconds: float | None, source: Source, start: float, end: float | None
) -> Blocks:
    """The decoder's blocks; Unreadable once they are more than `longest_seconds`."""
    seconds = 0.0
    for rate, block in decoder(source, start, end):
        seconds += len(block) / min(rate, USUAL_RATE)
        if longest_seconds is not None and seconds > longest_seconds:
            raise Unreadable(f"too long: more than {longest_seconds:g} s")
        yield rate, block


def _by(
    decoder: Decoder,
    source: Source,
    start: float,
    end: float | None,
    version: int,
) -> Decoded:
    mono = _mono(decoder(source, start, end))
    if mono.cancelled:  # one microphone's plug was wired the wrong way round
        mono, version = _mono(decoder(source, start, end), channel=0), VERSION
    stretches = mono.stretches
    if not stretches:
        raise Unreadable("empty")
    peak = np.max([_peak(samples) for _, samples in stretches])
    if not np.isfinite(peak):
        raise Unreadable("non-finite")
    if peak == 0:
        raise Unreadable("silent")
    length = sum(len(samples) / rate for rate, samples in stretches)
    if length < SHORTEST_SECONDS:
        raise Unreadable(f"too short: {length:.4f} s")
    if any(rate != SAMPLE_RATE for rate, _ in stretches):
        version = VERSION
    samples = np.concatenate([resample(samples, rate, SAMPLE_RATE) for rate, samples in stretches])
    peak = _peak(samples)
    if not np.isfinite(peak):
        raise Unreadable("non-finite")
    if peak == 0:  # above the lower rate's Nyquist frequency, or too small for float32
        raise Unreadable("silent")
    if mono.fine and peak < QUIET and np.any(samples * SCALE != np.rint(samples * SCALE)):
        samples, version = np.ldexp(samples, -np.frexp(peak)[1]), VERSION  # by a power of two: into [0.5, 1), exactly
    return Decoded(samples / peak if peak > 1 else samples, version)


@dataclass(frozen=True)
class _Mono:
    """A recording at its own rates, channels averaged or one of them taken."""

    stretches: list[tuple[int, Float32[ndarray, " samples"]]]  # each of one rate
    cancelled: bool  # the channels are each other's opposite, and their mean is next to nothing
    fine: bool  # of more than 16 bits


def _mono(blocks: Blocks, channel: int | None = None) -> _Mono:
    stretches, mixed, energy, fine = [], 0.0, 0.0, False
    for rate, group in groupby(blocks, key=itemgetter(0)):
        parts = []
        for _, block in group:
            fine |= block.dtype != np.int16
            scale = np.float32(1 / SCALE if block.dtype == np.int16 else 1)
            alone = block.shape[1] == 1 or channel is not None
            part = block[:, channel or 0].astype(np.float32) if alone else block.mean(axis=1, dtype=np.float32)
            part *= scale
            if not alone:
                mixed += float(np.vdot(part, part))
                floats = block.astype(np.float32).ravel() * scale
                energy += float(np.vdot(floats, floats)) / block.shape[1]
            parts.append(part)
        stretches.append((rate, np.concatenate(parts) if len(parts) > 1 else parts[0]))
    return _Mono(stretches, mixed < CANCELLED * energy, bool(fine))


def resample(samples: Float32[ndarray, " in"], rate: int, target: int) -> Float32[ndarray, " out"]:
    """`samples` at `rate` Hz as ceil(samples * target / rate) samples at `target` Hz, by soxr's HQ."""
    if rate == target or not len(samples):
        return samples
    length = -(-len(samples) * target // rate)
    resampled = soxr.resample(samples, rate, target, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))  # soxr rounds to the nearest length


def _peak(samples: Float32[ndarray, " samples"]) -> np.float32:
    """The largest magnitude; NaN if any sample is."""
    return max(samples.max(), -samples.min())


def duration(clip: Clip) -> float:
    """Seconds by the recording's header, which is a claim; 0 where there is none."""
    try:
        whole = decoders.seconds(_source(clip))
    except Unreadable:
        return 0.0
    return max(0.0, min(whole, clip.end or whole) - (clip.start or 0.0))


def _source(clip: Clip) -> Source:
    if clip.row is not None:
        return parquet.audio_bytes(clip.path, clip.row)[0]
    return clip.path
