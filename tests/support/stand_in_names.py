"""Full-size corpora in their official counts, as empty files: the loaders read names and tables only."""

import csv
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from audioconfit.corpora import gtzan

# Clips per speaker (rows) and emotion (fear, disgust, happiness, boredom, neutral, sadness, anger), as published.
EMODB = {
    "03": (4, 1, 7, 5, 11, 7, 14),
    "08": (6, 0, 11, 10, 10, 9, 12),
    "09": (1, 8, 4, 4, 9, 4, 13),
    "10": (8, 1, 4, 8, 4, 3, 10),
    "11": (10, 2, 8, 8, 9, 7, 11),
    "12": (6, 2, 2, 5, 4, 4, 12),
    "13": (7, 8, 10, 10, 9, 5, 12),
    "14": (12, 8, 8, 8, 7, 10, 16),
    "15": (8, 5, 6, 9, 11, 4, 13),
    "16": (7, 11, 11, 14, 5, 9, 14),
}
CODES = [f"{part}{number:02d}" for part, number in product("ab", range(1, 11))]


def touch(folder: Path, names: Iterable[str]) -> Path:
    """Empty files `names` below `folder`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def emodb(data: Path) -> Path:
    """535 files."""
    return touch(
        data / "emodb",
        (
            f"wav/{speaker}{CODES[take]}{letter}a.wav"
            for speaker, counts in EMODB.items()
            for letter, count in zip("AEFLNTW", counts, strict=True)
            for take in range(count)
        ),
    )


def timit(data: Path) -> Path:
    """630 speakers, ten sentences each, in LDC's folders, some of them in lower case."""
    names = []
    for number in range(630):
        speaker = "FM"[number % 2] + "".join(chr(65 + number // 26**place % 26) for place in (2, 1, 0)) + "0"
        folder = f"{'TRAIN' if number < 462 else 'TEST'}/DR{number % 8 + 1}/{speaker}"
        spoken = ["SA1", "SA2", *(f"SI{500 + number + k}" for k in range(3)), *(f"SX{9 + 90 * k}" for k in range(5))]
        names += [f"{folder}/{sentence}.WAV" for sentence in spoken]
    return touch(data / "timit", (name if place % 2 else name.lower() for place, name in enumerate(names)))


def gtzan_files(data: Path) -> Path:
    """All 1000 files."""
    genres = sorted({name.split(".")[0] for name in gtzan.fault_filtered()})
    names = (f"genres/{genre}/{genre}.{number:05d}.wav" for genre in genres for number in range(100))
    return touch(data / "gtzan", names)


# (fold, target): the source recordings of ESC-50's official table that lie in two folds.
ESC50_SHARED = {
    **{(2, 38): 131943, (3, 37): 131943, (2, 6): 134049, (3, 1): 134049},
    **{(4, 37): 209698, (5, 38): 209698, (4, 6): 234879, (5, 1): 234879},
}


def esc50(data: Path) -> Path:
    """2000 files and their table: 50 classes, 8 clips in each of 5 folds, two takes of each of four sources. Four
    sources lie in two folds, as in the official table.
    """

    def name(target: int, fold: int, source: int, take: str) -> str:
        number = 1000 * target + 10 * fold + source
        return f"{fold}-{ESC50_SHARED.get((fold, target), number) if source == 0 else number}-{take}-{target}.wav"

    rows = [
        (name(target, fold, source, take), fold, target, f"class {target:02d}")
        for target, fold, source, take in product(range(50), range(1, 6), range(4), "AB")
    ]
    root = touch(data / "ESC-50-master", (f"audio/{row[0]}" for row in rows))
    (root / "meta").mkdir()
    with (root / "meta" / "esc50.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("filename", "fold", "target", "category"), *rows])
    return root


def mswc(data: Path, name: str, language: str, clips: int, classes: int) -> Path:
    """`clips` files over `classes` keywords, a tenth each for validation and test, with the corpus' table of splits."""
    rows = [
        (("TRAIN", "DEV", "TEST", *["TRAIN"] * 7)[number // classes % 10], f"word{number % classes:03d}", number)
        for number in range(clips)
    ]
    links = [f"{word}/common_voice_{number}.opus" for _, word, number in rows]
    root = touch(data / name, (f"{language}/clips/{link}" for link in links))
    with (root / language / f"{language}_splits.csv").open("w", newline="") as table:
        lines = ((split, link, word, "True") for (split, word, _), link in zip(rows, links, strict=True))
        csv.writer(table).writerows([("SET", "LINK", "WORD", "VALID"), *lines])
    return root
