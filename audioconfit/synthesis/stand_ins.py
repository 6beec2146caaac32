"""The six corpora in small: the real layouts, file formats, file names and protocols around sounds of our own."""

import csv
import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator

from audioconfit.audio.decoding import resample
from audioconfit.corpora import gtzan
from audioconfit.corpora.emodb import EMOTIONS
from audioconfit.synthesis.sounds import VOICE_RATE, Prosody, Sound, Speaker, Style, event, music, say

EMODB_SPEAKERS = {"03": False, "08": True, "09": True, "10": False, "11": False} | {
    "12": False,
    "13": True,
    "14": True,
    "15": False,
    "16": True,
}
EMODB_TEXTS = {"a01": "derlapenlitauf", "a02": "dasvilsie", "a04": "heuteaben", "b01": "vasinden", "b09": "ichvil"}
PROSODIES = {
    "anger": Prosody(pitch=1.35, range=0.3, tempo=1.2, loudness=0.9, tilt=-0.4),
    "boredom": Prosody(pitch=0.9, range=0.04, tempo=0.8, loudness=0.35, tilt=0.3),
    "disgust": Prosody(pitch=0.95, range=0.15, tempo=0.85, loudness=0.5, breath=0.15),
    "fear": Prosody(pitch=1.6, range=0.1, tempo=1.35, loudness=0.45, tremor=0.06),
    "happiness": Prosody(pitch=1.4, range=0.45, tempo=1.1, loudness=0.7),
    "neutral": Prosody(loudness=0.5),
    "sadness": Prosody(pitch=0.9, range=0.06, tempo=0.65, loudness=0.2, breath=0.06, tilt=0.5),
}
STYLES = {
    "blues": Style(80, 0.1, 0.5, 0.8, (0, 3, 5, 6, 7, 10), 98.0),
    "classical": Style(70, 0.0, 1.2, 0.6, (0, 4, 7, 11), 196.0),
    "country": Style(110, 0.1, 0.3, 1.5, (0, 2, 4, 7, 9), 165.0),
    "disco": Style(120, 0.8, 0.2, 1.2, (0, 3, 7), 110.0),
    "hiphop": Style(90, 1.0, 0.15, 0.5, (0, 3), 55.0),
    "jazz": Style(140, 0.2, 0.4, 0.9, (0, 4, 7, 10, 14), 147.0),
    "metal": Style(160, 0.7, 0.3, 3.0, (0, 1, 7), 82.0, 1.0),
    "pop": Style(115, 0.5, 0.4, 1.0, (0, 4, 7, 9), 220.0),
    "reggae": Style(75, 0.5, 0.1, 0.7, (0, 5, 7), 123.0),
    "rock": Style(130, 0.6, 0.5, 2.0, (0, 5, 7, 10), 110.0, 0.4),
}
ESC50_CLASSES = {  # ten of the fifty, with their official numbers
    **{0: "dog", 1: "rooster", 10: "rain", 11: "sea_waves", 12: "crackling_fire"},
    **{20: "crying_baby", 21: "sneezing", 38: "clock_tick", 40: "helicopter", 41: "chainsaw"},
}
SPANISH = ("gracias", "ciudad", "nombre", "mundo", "tiempo", "siempre", "noche", "agua")
INDONESIAN = ("rumah", "makan", "tidak", "saya", "dengan", "bagus")
TIMIT_SPEAKERS = ("FCJF0", "MDAB0", "FAEM0", "MARC0", "FALK0", "MADC0", "FALR0", "MBDG0")
TIMIT_WORDS = (
    "shehadyourdark",
    "dontaskmeto",
    "eveningsun",
    "mosquitoes",
    "ralphfixed",
    "uniforms",
    "biblical",
    "almost",
)


@dataclass(frozen=True)
class File:
    """One file of a stand-in: a sound, or a table's lines."""

    path: str  # below the corpus folder
    rate: int = 0
    format: str = "WAV"
    sound: Callable[[Generator], Sound] | None = None
    lines: tuple[tuple[str, ...], ...] = ()


def write(file: File, folder: Path, seed: int, noise: float) -> None:
    """The file below `folder`, the same bytes for the same seed on one machine."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.sound is None:
        with path.open("w", newline="") as table:
            csv.writer(table).writerows(file.lines)
        return
    sound = _noisy(file.sound(_generator(seed, file.path)), noise, _generator(seed, f"{file.path} noise"))
    sound = sound.astype(np.float32)
    if file.format == "OPUS":
        soundfile.write(path, resample(sound, VOICE_RATE, file.rate), file.rate, format="OGG", subtype="OPUS")
        path.write_bytes(_with_serial(path.read_bytes(), 1))
    else:
        soundfile.write(path, sound, file.rate, format=file.format, subtype="PCM_16")


def _noisy(sound: Sound, noise: float, rng: Generator) -> Sound:
    """The sound in white noise of `noise` times its own strength, half to twice as much by the recording, as loud as
    before.
    """
    if not noise:
        return sound
    strength = float(np.sqrt(np.mean(sound**2)))
    mixed = sound + noise * rng.uniform(0.5, 2.0) * strength * rng.standard_normal(len(sound))
    return mixed * min(1.0, strength / float(np.sqrt(np.mean(mixed**2))), 0.99 / float(np.abs(mixed).max()))


def _generator(seed: int, word: str) -> Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())])


def _with_serial(ogg: bytes, serial: int) -> bytes:
    """The Ogg stream under another serial number: libsndfile draws one at random. Each page's checksum covers it."""
    out, first = bytearray(ogg), 0
    while first < len(out):
        segments = out[first + 26]
        end = first + 27 + segments + sum(out[first + 27 : first + 27 + segments])
        struct.pack_into("<I", out, first + 14, serial)
        struct.pack_into("<I", out, first + 22, 0)
        checksum = 0
        for byte in out[first:end]:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ _ogg_table()[checksum >> 24 ^ byte]
        struct.pack_into("<I", out, first + 22, checksum)
        first = end
    return bytes(out)


@cache
def _ogg_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if value & 0x80000000 else value << 1
        table.append(value)
    return tuple(table)


def emodb(seed: int, takes: int) -> Iterator[File]:
    """wav/03a01Fa.wav: every speaker says two texts per take in each emotion. 140 clips of about a second."""
    for number, female in EMODB_SPEAKERS.items():
        speaker = Speaker.drawn(_generator(seed, f"emodb {number}"), female=female)
        for code, text in list(EMODB_TEXTS.items())[:2]:
            for letter, emotion in EMOTIONS.items():
                for take in "abcde"[:takes]:
                    sound = partial(_spoken, text, speaker, PROSODIES[emotion])
                    yield File(f"wav/{number}{code}{letter}{take}.wav", VOICE_RATE, sound=sound)


def timit(seed: int, takes: int) -> Iterator[File]:
    """TRAIN/DR1/FCJF0/SX37.WAV with SPHERE headers: eight speakers, ten sentences. 80 clips of about a second."""
    for region, name in enumerate(TIMIT_SPEAKERS, start=1):
        rng = _generator(seed, f"timit {name}")
        speaker = Speaker.drawn(rng, female=name.startswith("F"))
        numbers = rng.choice(np.arange(3, 450), 5, replace=False)
        names = ["SA1", "SA2", *(f"SI{450 + n}" for n in numbers[:3]), *(f"SX{n}" for n in numbers)]
        for place, sentence in enumerate(names):
            words = TIMIT_WORDS[place if place < 2 else rng.integers(2, len(TIMIT_WORDS))] + str(
                rng.choice(TIMIT_WORDS)
            )
            side = "TEST" if region > 6 else "TRAIN"
            sound = partial(_spoken, words[: 10 * takes], speaker, Prosody())
            yield File(f"{side}/DR{region}/{name}/{sentence}.WAV", VOICE_RATE, "NIST", sound)


def gtzan_files(seed: int, takes: int) -> Iterator[File]:
    """genres/blues/blues.00029.wav: of every genre the first names in the fault-filtered lists. 110 clips of 2 s."""
    for genre, style in STYLES.items():
        for split, count in (("train", 6), ("valid", 2), ("test", 3)):
            listed = [
                name for name, side in gtzan.fault_filtered().items() if (name.split(".")[0], side) == (genre, split)
            ]
            for name in listed[: count * takes]:
                yield File(f"genres/{genre}/{name}.wav", 22_050, sound=partial(music, style, 2.0, 22_050))


def esc50(seed: int, takes: int) -> Iterator[File]:
    """audio/1-100032-A-0.wav and meta/esc50.csv: ten classes, five folds, a source of two takes. 100 clips of 1.5 s.

    As in the real table, a source recording of one class lies in two folds.
    """
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    rows = [header]
    for place, (target, category) in enumerate(ESC50_CLASSES.items()):
        sound = partial(event, place % 5, (350.0, 1400.0)[place // 5], 1.5, 44_100)
        for fold in range(1, 6):
            for source in range(takes):
                home = 2 if (place, fold) == (0, 3) else fold
                number = str(100_000 + 1000 * target + 10 * home + source)
                for take in "AB":
                    name = f"{fold}-{number}-{take}-{target}.wav"
                    rows.append((name, str(fold), str(target), category, "True", number, take))
                    yield File(f"audio/{name}", 44_100, sound=sound)
    yield File("meta/esc50.csv", lines=tuple(rows))


def mswc(language: str, words: tuple[str, ...], seed: int, takes: int) -> Iterator[File]:
    """es/clips/agua/common_voice_es_1.opus and es/es_splits.csv: 13 speakers say each word. 48 kHz Opus, 1 s."""
    rows = [("SET", "LINK", "WORD", "VALID", "SPEAKER", "GENDER")]
    for place, word in enumerate(words):
        for split, count in (("TRAIN", 8), ("DEV", 2), ("TEST", 3)):
            for take in range(count * takes):
                rng = _generator(seed, f"{language} {word} {split} {take}")
                female = bool(rng.integers(2))
                speaker = Speaker.drawn(rng, female=female)
                link = f"{word}/common_voice_{language}_{10_000 * place + 1000 * len(split) + take}.opus"
                rows.append((split, link, word, "True", f"{split}{place}{take}", "FEMALE" if female else "MALE"))
                yield File(f"{language}/clips/{link}", 48_000, "OPUS", partial(_one_second, word, speaker))
    yield File(f"{language}/{language}_splits.csv", lines=tuple(rows))


def _spoken(text: str, speaker: Speaker, prosody: Prosody, rng: Generator) -> Sound:
    sound = say(text, speaker, rng, prosody)
    return sound + 0.002 * rng.standard_normal(len(sound))


def _one_second(word: str, speaker: Speaker, rng: Generator) -> Sound:
    sound = _spoken(word, speaker, Prosody(tempo=rng.uniform(0.9, 1.1), loudness=rng.uniform(0.4, 0.9)), rng)[
        :VOICE_RATE
    ]
    before = int(rng.integers(0, VOICE_RATE - len(sound) + 1))
    return np.pad(sound, (before, VOICE_RATE - len(sound) - before))


FILES: dict[str, Callable[[int, int], Iterator[File]]] = {
    "timit": timit,
    "gtzan": gtzan_files,
    "esc50": esc50,
    "mswc-spanish": partial(mswc, "es", SPANISH),
    "mswc-indonesian": partial(mswc, "id", INDONESIAN),
    "emodb": emodb,
}
