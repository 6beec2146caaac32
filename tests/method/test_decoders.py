"""Both decoders: every format at the length that its data has, whatever its header claims."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from jaxtyping import Float32
from numpy import ndarray
from recordings import clip_of, tone

from audioconfit import audio
from audioconfit.audio import decoders

BY_FFMPEG = [  # name, container, codec, rate
    ("a.m4a", "ipod", "aac", 44_100),
    ("a.mp4", "mp4", "aac", 16_000),
    ("lossless.m4a", "ipod", "alac", 44_100),
    ("a.aac", "adts", "aac", 44_100),
    ("a.webm", "webm", "libopus", 48_000),
    ("a.mka", "matroska", "libmp3lame", 44_100),
    ("a.mkv", "matroska", "pcm_s16le", 16_000),
    ("a.amr", "amr", "libopencore_amrnb", 8_000),
    ("a.3gp", "3gp", "libopencore_amrnb", 8_000),
    ("a.wma", "asf", "wmav2", 44_100),
    ("a.asf", "asf", "wmav1", 22_050),
    ("a.ac3", "ac3", "ac3", 48_000),
    ("a.eac3", "eac3", "eac3", 48_000),
    ("a.mp2", "mp2", "mp2", 48_000),
    ("a.mp3", "mp3", "libmp3lame", 44_100),
    ("a.wv", "wv", "wavpack", 44_100),
    ("a.tta", "tta", "tta", 44_100),
    ("a.mov", "mov", "pcm_s16be", 44_100),
    ("a.avi", "avi", "pcm_s16le", 44_100),
    ("a.ts", "mpegts", "aac", 48_000),
    ("a.flv", "flv", "aac", 44_100),
    ("a.w64", "w64", "pcm_s16le", 44_100),
]
BY_LIBSNDFILE = [
    ("a.wav", {"subtype": "PCM_16"}),
    ("a.wav", {"subtype": "PCM_U8"}),
    ("a.wav", {"subtype": "PCM_24"}),
    ("a.wav", {"subtype": "PCM_32"}),
    ("a.wav", {"subtype": "FLOAT"}),
    ("a.wav", {"subtype": "DOUBLE"}),
    ("a.wav", {"subtype": "ULAW"}),
    ("a.wav", {"subtype": "ALAW"}),
    ("a.wav", {"format": "WAVEX", "subtype": "PCM_24"}),
    ("a.wav", {"format": "RF64", "subtype": "PCM_16"}),
    ("a.wav", {"subtype": "IMA_ADPCM"}),
    ("SA1.WAV", {"format": "NIST", "subtype": "PCM_16"}),
    ("a.flac", {"subtype": "PCM_16"}),
    ("a.flac", {"subtype": "PCM_24"}),
    ("a.aiff", {"subtype": "PCM_16"}),
    ("a.aiff", {"subtype": "FLOAT"}),
    ("a.au", {"subtype": "PCM_16"}),
    ("a.caf", {"subtype": "PCM_16"}),
    ("a.caf", {"subtype": "ULAW"}),
]


def encode(path: Path, container: str, codec: str, rate: int) -> None:
    """Half a second of the tone, by FFmpeg."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "mono", 64_000
        frame = av.AudioFrame.from_ndarray((tone(rate) * 32_767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.frame_size or None)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))


def ffmpegs(path: Path) -> Float32[ndarray, " samples"]:
    """What FFmpeg decodes and converts by itself."""
    with av.open(str(path)) as container:
        planes = av.AudioResampler("fltp", "mono")
        frames = [made for frame in container.decode(audio=0) for made in planes.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def heard(path: Path) -> Float32[ndarray, " samples"]:
    """At the recording's own rate."""
    decoder = decoders.libsndfile if decoders.by_libsndfile(path) else decoders.ffmpeg
    blocks = [block for _, block in decoder(path, 0.0, None)]
    return np.concatenate([b.astype(np.float32) / (32_768 if b.dtype == np.int16 else 1) for b in blocks])[:, 0]


@pytest.mark.parametrize(("name", "container", "codec", "rate"), BY_FFMPEG)
def test_what_libsndfile_does_not_read_is_decoded(
    tmp_path: Path, name: str, container: str, codec: str, rate: int
) -> None:
    encode(tmp_path / name, container, codec, rate)
    np.testing.assert_allclose(heard(tmp_path / name), ffmpegs(tmp_path / name), atol=1e-6)
    decoded = audio.decode(clip_of(tmp_path / name))
    lost = 16_000 * 2_048 / rate if codec.startswith("wma") else 100  # that encoder drops a frame that is not full
    assert 8_000 - lost <= len(decoded) <= 8_000 + 16_000 * 4_096 / rate  # a frame or two of padding
    spectrum = np.abs(np.fft.rfft(decoded[2_000:6_000] * np.hanning(4_000)))
    assert spectrum.argmax() == 110  # 440 Hz in steps of 4 Hz


@pytest.mark.parametrize(("name", "how"), BY_LIBSNDFILE)
def test_both_decoders_agree_on_uncompressed_and_lossless_files(tmp_path: Path, name: str, how: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, tone(22_050), 22_050, **how)
    assert decoders.by_libsndfile(tmp_path / name)
    np.testing.assert_allclose(heard(tmp_path / name), ffmpegs(tmp_path / name), atol=1e-6)


# --- headers that lie ---------------------------------------------------------------------------------------------


def without_its_first_frame(mp3: bytes) -> bytes:
    """Without the frame that holds the Xing header, and so without any length."""
    assert b"Xing" in mp3[:200]
    return mp3[mp3.index(b"\xff", 4 + mp3.index(b"Xing") + 120) :]


def test_a_variable_bit_rate_without_its_length_is_read_to_the_end(tmp_path: Path) -> None:
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 44_100).astype(np.float32)
    sound = np.concatenate([tone(44_100, 1.0) / 500, loud])
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound, 44_100, bitrate_mode="VARIABLE", compression_level=0.3)
    path.write_bytes(without_its_first_frame(path.read_bytes()))
    assert len(soundfile.read(path)[0]) < 0.9 * 5 * 44_100  # what libsndfile makes of it
    assert len(audio.decode(clip_of(path))) / 16_000 == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_link_of_a_chained_ogg_file_is_read(tmp_path: Path, subtype: str) -> None:
    links = []
    for seconds in (0.5, 1.5):
        soundfile.write(tmp_path / "link.ogg", tone(16_000, seconds), 16_000, format="OGG", subtype=subtype)
        links.append((tmp_path / "link.ogg").read_bytes())
    (tmp_path / "chain.ogg").write_bytes(b"".join(links))
    # FFmpeg does not trim the last Vorbis block of a link: 16 ms each here.
    assert len(audio.decode(clip_of(tmp_path / "chain.ogg"))) / 16_000 == pytest.approx(2.0, abs=0.035)
    assert decoders.by_libsndfile(tmp_path / "link.ogg")


def test_a_recorder_that_died_before_it_wrote_the_length_leaves_all_it_recorded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000)
    whole = (tmp_path / "a.wav").read_bytes()
    size = whole.index(b"data") + 4
    for claim in (0, 0xFFFFFFFF):
        (tmp_path / "a.wav").write_bytes(whole[:size] + struct.pack("<I", claim) + whole[size + 4 :])
        np.testing.assert_allclose(audio.decode(clip_of(tmp_path / "a.wav")), tone(16_000), atol=1e-4)


@pytest.mark.parametrize("claim", [0, 4_000, 80_000])
def test_a_flac_stream_of_unknown_or_wrong_length_is_read_to_the_end(tmp_path: Path, claim: int) -> None:
    soundfile.write(tmp_path / "a.flac", tone(16_000), 16_000)
    whole = (tmp_path / "a.flac").read_bytes()
    about = int.from_bytes(whole[18:26]) >> 36 << 36 | claim  # STREAMINFO: 36 bits of length after rate and depth
    (tmp_path / "a.flac").write_bytes(whole[:18] + about.to_bytes(8) + whole[26:])
    np.testing.assert_allclose(audio.decode(clip_of(tmp_path / "a.flac")), tone(16_000), atol=1e-4)


CHUNKED = ["a.wav", "a.aiff", "a.au", "a.caf"]


@pytest.mark.parametrize(
    ("name", "behind"),
    [*((name, behind) for name in [*CHUNKED, "a.w64"] for behind in ("the file", "noise")), ("a.flac", "the file")],
)
def test_bytes_behind_the_samples_that_a_header_counts_are_named(tmp_path: Path, name: str, behind: str) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(16_000), 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole + (whole if behind == "the file" else np.random.default_rng(0).bytes(5_000)))
    with pytest.raises(audio.Unreadable, match=r"cut short: \d{4,} bytes follow the samples that its header counts"):
        audio.decode(clip_of(path))


@pytest.mark.parametrize(("name", "container", "codec"), [("a.m4a", "ipod", "aac"), ("a.3gp", "3gp", "aac")])
def test_joined_mp4_files_are_named(tmp_path: Path, name: str, container: str, codec: str) -> None:
    encode(tmp_path / name, container, codec, 44_100)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(2 * whole)
    with pytest.raises(audio.Unreadable, match=f"cut short: {len(whole)} bytes follow the samples"):
        audio.decode(clip_of(tmp_path / name))


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("behind", [bytes(300), b"TAG" + b"a song".ljust(125), b"ID3\x04" + b"a song".ljust(125)])
def test_zeros_and_tags_behind_the_samples_are_not(tmp_path: Path, name: str, behind: bytes) -> None:
    soundfile.write(tmp_path / name, tone(16_000), 16_000)
    with (tmp_path / name).open("ab") as file:
        file.write(behind)
    np.testing.assert_allclose(audio.decode(clip_of(tmp_path / name)), tone(16_000), atol=1e-4)


@pytest.mark.parametrize("padding", [b"\0", b""])
def test_a_chunk_behind_an_odd_number_of_bytes_is_a_chunk(tmp_path: Path, padding: bytes) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16_000)[:-1], 16_000, subtype="PCM_U8")
    whole = (tmp_path / "a.wav").read_bytes()
    assert int.from_bytes(whole[whole.index(b"data") + 4 :][:4], "little") % 2
    whole = whole.rstrip(b"\0") + padding + b"LIST" + struct.pack("<I", 4) + b"INFO"
    (tmp_path / "a.wav").write_bytes(whole)
    assert len(audio.decode(clip_of(tmp_path / "a.wav"))) == 7_999


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", tone(16_000), 16_000)
    (tmp_path / "a.mp3").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n")
    with pytest.raises(audio.Unreadable, match="no decoder knows its format"):
        audio.decode(clip_of(tmp_path / "a.mp3"))


# --- stretches and channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
def test_an_end_beyond_the_recording_is_named(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(44_100, 2.0), 44_100)
    with pytest.raises(audio.Unreadable, match=r"cut short: ends at 3\.0 s of 2\.0"):
        audio.decode(clip_of(tmp_path / name, start=1.0, end=3.0))
    assert len(audio.decode(clip_of(tmp_path / name, start=1.0, end=2.0))) == 16_000


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_of_channels_that_cancel_the_first_is_kept(tmp_path: Path, subtype: str) -> None:
    sound = tone(16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, -sound], axis=1), 16_000, subtype=subtype)
    np.testing.assert_allclose(audio.decode(clip_of(tmp_path / "a.wav")), sound, atol=1e-4)
