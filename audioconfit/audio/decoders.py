"""Two decoders: libsndfile, and FFmpeg where libsndfile has none or believes a length that is not true.

libsndfile reads WAV, FLAC, AIFF and their like bit by bit and quickly. It stops at the length that it works out at the
start: at that of the first frames' bit rate in an MP3 without a Xing header, at the end of the first link in a chained
Ogg file, at the count in a FLAC's header; in a W64 file it takes what follows the samples for samples. Those, and all
that libsndfile cannot read, go through FFmpeg, which reads to the end of the data.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import av
import numpy as np
import soundfile
from jaxtyping import Float32, Int16
from numpy import ndarray

RATES = (1_000, 400_000)  # Hz; a header that says anything else is broken
BLOCK_SAMPLES = 1 << 20  # read at once, over all channels: a header's length is a claim, not a size to allocate
DAMAGED_SHARE = 0.01  # of an FFmpeg stream's packets; one at the end of a file that was cut off is always forgiven
# No playlist and no list of other files: those make FFmpeg open whatever path or address they name.
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,"
    "ogg,oma,rm,tak,truehd,tta,voc,w64,wav,wv"
)
TOLERANCE_SECONDS = 0.1  # of a stretch's end: annotations are rounded, and codecs pad or trim a frame
FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x06]")  # of a logical stream

Source = Path | bytes
Block = Float32[ndarray, "frames channels"] | Int16[ndarray, "frames channels"]
Blocks = Iterator[tuple[int, Block]]  # (rate, samples): a chained file may change its rate


class Unreadable(Exception):  # noqa: N818
    """A clip without usable audio; the message is the reason: empty, silent, too short, non-finite, not audio: ..."""


def by_libsndfile(source: Source) -> bool:
    """Whether libsndfile reads all of the recording."""
    try:
        with soundfile.SoundFile(_readable(source)) as file:
            if file.format == "OGG":
                return not _chained(source)
            if file.format == "FLAC":
                return _samples_of_packets(source) <= file.frames
            return file.format not in ("MP3", "W64") and file.subtype != "MPEG_LAYER_III" and file.frames > 0
    except Exception:  # whatever half a dozen parsers raise
        return False


def libsndfile(source: Source, start: float, end: float | None) -> Blocks:
    """The stretch from `start` to `end` seconds, int16 where the recording is."""
    with soundfile.SoundFile(_readable(source)) as file:
        rate = _usable(file.samplerate)
        first = round(start * rate)
        check_stretch(start, end, file.frames / rate)
        left = None if end is None else round(end * rate) - first
        if first:
            file.seek(first)
        step = ceil(BLOCK_SAMPLES / file.channels)
        dtype = "int16" if file.subtype == "PCM_16" else "float32"  # numpy turns integers into floats faster
        while left is None or left > 0:
            block = file.read(step if left is None else min(step, left), dtype=dtype, always_2d=True)
            if len(block):
                yield rate, block
            if len(block) < step:
                return
            left = None if left is None else left - len(block)


def ffmpeg(source: Source, start: float, end: float | None) -> Blocks:
    """The stretch from `start` to `end` seconds, counted in decoded samples: FFmpeg's seeking is not exact."""
    packets, failed, position = 0, 0, 0.0
    with _opened(source) as container:
        for packet in container.demux(container.streams.audio[0]):
            packets += 1
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                failed += 1
                continue
            for frame in frames:
                rate, samples = _usable(frame.sample_rate), _samples(frame)
                first = max(0, round((start - position) * rate))
                last = len(samples) if end is None else max(0, round((end - position) * rate))
                if len(samples[first:last]):
                    yield rate, samples[first:last]
                position += len(samples) / rate
            if end is not None and position >= end:
                break
    if failed > max(1, DAMAGED_SHARE * packets):
        raise Unreadable(f"not audio: damaged, {failed} of {packets} packets cannot be decoded")
    check_stretch(start, end, position)


def check_stretch(start: float, end: float | None, whole: float) -> None:
    """Unreadable where a stretch lies outside its recording of `whole` seconds."""
    if start >= whole > 0:
        raise Unreadable(f"empty: starts at {start} s of {whole:.3f} s")
    if end is not None and end > whole + TOLERANCE_SECONDS and whole > 0:
        raise Unreadable(f"cut short: ends at {end} s of {whole:.3f} s")


def seconds(source: Source) -> float:
    """The recording's length by its header, which is a claim."""
    if by_libsndfile(source):
        with soundfile.SoundFile(_readable(source)) as file:
            return float(file.frames / file.samplerate)
    with _opened(source) as container:
        stream = container.streams.audio[0]
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0


@contextmanager
def _opened(source: Source) -> Iterator[av.container.InputContainer]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else io.BytesIO(source)
        try:
            container = stack.enter_context(av.open(file, "r", options={"format_whitelist": CONTAINERS}))
        except (av.error.FFmpegError, ValueError):
            raise Unreadable("not audio: no decoder knows its format") from None
        if not container.streams.audio:
            raise Unreadable("not audio: it has no audio track")
        yield container


def _samples(frame: av.AudioFrame) -> Float32[ndarray, "frames channels"]:
    samples = frame.to_ndarray()
    channels = frame.layout.nb_channels
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32) / half - (1 if samples.dtype == np.uint8 else 0)


def _usable(rate: int) -> int:
    if not RATES[0] <= rate <= RATES[1]:
        raise Unreadable(f"not audio: a sample rate of {rate} Hz")
    return rate


def _readable(source: Source) -> str | io.BytesIO:
    return str(source) if isinstance(source, Path) else io.BytesIO(source)


def _samples_of_packets(source: Source) -> int:
    """How many samples a FLAC's frames have, without decoding them; a header can count fewer, files can be joined."""
    with _opened(source) as container:
        stream = container.streams.audio[0]
        length = sum(packet.duration or 0 for packet in container.demux(stream))
        return round(length * (stream.time_base or 0) * stream.rate)


def _chained(source: Source) -> bool:
    """Whether an Ogg file begins more than one stream, one after the other or beside each other."""
    return len(FIRST_PAGE.findall(source.read_bytes() if isinstance(source, Path) else source)) > 1
