"""Bytes behind the samples that a header counts: files put one behind the other, and headers that count too few.

libsndfile and FFmpeg believe the header of a WAV, AIFF, AU, CAF or W64 file, lose frames of joined FLACs, and stop at
the end of the first of joined MP4s. Where a recorder never wrote the last length, or somebody joined files with `cat`,
both read the beginning and say nothing.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

FLAC = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # how every file begins: then 34 bytes of STREAMINFO
HARMLESS = 64  # bytes; no file and no stretch worth a word is shorter
UNKNOWN = (0, 0xFFFF_FFFF, -1, 0xFFFF_FFFF_FFFF_FFFF)  # a length that was never written: decoders read to the end
ID_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_ -()\xa9")
WHOLE_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff")  # their ids look like those of chunks
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # that players append to any file
W64_RIFF = bytes.fromhex("72696666 2e91 cf11 a5d6 28db04c10000")
W64_DATA = bytes.fromhex("64617461 f3ac d311 8cd1 00c04f8edb8a")


@dataclass(frozen=True)
class _Chunks:
    """How a format lays out its chunks."""

    first: int  # where the first one begins
    id: int  # bytes of an id
    size: str  # format of the length behind it
    samples: bytes  # id of the chunk that holds them
    even: int = 1  # chunks begin at multiples of it
    own: bool = False  # the length counts the id and itself


FORMATS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data", even=2),
    b"RIFX": _Chunks(12, 4, ">I", b"data", even=2),
    b"FORM": _Chunks(12, 4, ">I", b"SSND", even=2),
    b"caff": _Chunks(8, 4, ">q", b"data"),
    b"riff": _Chunks(40, 16, "<Q", W64_DATA, even=8, own=True),
}


def bytes_behind(source: Path | bytes) -> int:
    """Bytes that follow the samples and are neither a chunk, a player's tag nor zeros; 0 for other formats."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        magic = file.read(4)
        if magic == b".snd":
            return _behind_au(file)
        if magic == FLAC[0][:4]:
            return _behind_flac(file)
        if file.read(4) == b"ftyp":
            return _behind_mp4(file)
        file.seek(4)
        chunks = FORMATS.get(magic)
        if chunks is None or (magic == b"riff" and file.read(12) != W64_RIFF[4:]):
            return 0
        return _behind(file, chunks)


def _behind(file: io.BufferedIOBase, chunks: _Chunks) -> int:
    whole, place, read = file.seek(0, io.SEEK_END), chunks.first, False
    header = chunks.id + struct.calcsize(chunks.size)
    while place + header <= whole:
        file.seek(place)
        name, size = file.read(chunks.id), struct.unpack(chunks.size, file.read(header - chunks.id))[0]
        if read and not _is_chunk(name):
            return _rest(file, place, whole)
        if name == chunks.samples:
            if size in UNKNOWN:
                return 0
            read = True
        end = place + (size if chunks.own else header + size)
        if end <= place:
            return 0
        place = -(-end // chunks.even) * chunks.even
        if read and place > end and not _chunk_at(file, place, whole) and _chunk_at(file, end, whole):
            place = end  # a writer that forgot the byte of padding
    return _rest(file, place, whole) if read else 0


def _behind_au(file: io.BufferedIOBase) -> int:
    first, size = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
    whole = file.seek(0, io.SEEK_END)
    return 0 if size in UNKNOWN else _rest(file, first + size, whole)


def _behind_mp4(file: io.BufferedIOBase) -> int:
    """Bytes from the second ftyp box on: .m4a, .mp4, .3gp and .mov begin with their only one."""
    whole, place = file.seek(0, io.SEEK_END), 0
    while place + 16 <= whole:
        file.seek(place)
        size, name, long = struct.unpack(">I4sQ", file.read(16))
        if name == b"ftyp" and place:
            return whole - place
        size = long if size == 1 else size
        if size < 8:  # 0: to the end of the file
            return 0
        place += size
    return 0


def _behind_flac(file: io.BufferedIOBase) -> int:
    behind = file.read()
    found = [place for place in map(behind.find, FLAC) if place >= 0]
    return len(behind) - min(found) if found else 0


def _rest(file: io.BufferedIOBase, place: int, whole: int) -> int:
    """Bytes from `place` to the end, 0 where they are few, zeros or a player's tag."""
    file.seek(min(place, whole))
    rest = file.read()
    return 0 if len(rest) < HARMLESS or rest.startswith(TAGS) or not rest.strip(b"\0") else len(rest)


def _chunk_at(file: io.BufferedIOBase, place: int, whole: int) -> bool:
    file.seek(min(place, whole))
    return _is_chunk(file.read(4))


def _is_chunk(name: bytes) -> bool:
    return len(name) >= 4 and name[:4] not in WHOLE_FILES and ID_LETTERS.issuperset(name[:4])
