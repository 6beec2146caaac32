"""Clip and Corpus: what the files of a corpus say, before any of them is opened."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audioconfit.errors import InputError

SPLITS = ("train", "valid", "test")
SPLIT_SPELLINGS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
AUDIO_SUFFIXES = {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".au", ".snd", ".sph", ".nist", ".aif", ".aiff", ".aifc"),
    *(".caf", ".w64", ".rf64", ".voc", ".wve"),
    *(
        ".wave",
        ".m4a",
        ".aac",
        ".wma",
        ".mp4",
        ".webm",
        ".amr",
        ".3gp",
        ".3gpp",
        ".mpga",
        ".mp2",
        ".ac3",
        ".mka",
        ".wv",
    ),
    *(".ape", ".tta", ".spx", ".m4b"),
}


@dataclass(frozen=True)
class Clip:
    """One labelled recording, or a stretch of one."""

    key: str  # unique within the corpus and the same on every machine: path below the corpus folder [#start-end | #row]
    path: Path
    labels: tuple[str, ...]  # one; several only in a multi-label corpus
    group: str | None = None  # speaker or source recording, never on both sides of a split
    split: str | None = None  # "train" | "valid" | "test" where the corpus says so
    fold: int | None = None  # official cross-validation fold, from 1
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    row: int | None = None  # row of a Parquet or Arrow file
    name: str = ""  # the recording's own name where a protocol reads it: SX37, blues.00029

    @property
    def label(self) -> str:
        """The only label; InputError in a multi-label corpus' clip with another number of them."""
        if len(self.labels) != 1:
            raise InputError(f"Clip {self.key} has {len(self.labels)} labels {self.labels}, not one.")
        return self.labels[0]


@dataclass(frozen=True)
class Corpus:
    """The clips of a corpus. `protocol` names the function of splits.py that applies unless another is asked for."""

    name: str
    clips: tuple[Clip, ...]
    protocol: str = "random"
    multi_label: bool = False
    generated: bool = False  # our synthesiser's stand-in, not the recordings
    folder: Path | None = None  # where it was found
    notes: tuple[str, ...] = ()  # sentences that a reader of results should know
    revision: str | None = None  # the commit of the hub's repository that it is
    copies: tuple[tuple[str, ...], ...] = ()  # keys of recordings that are byte for byte the same, known once prepared

    def __post_init__(self) -> None:
        twice = [key for key, count in Counter(clip.key for clip in self.clips).items() if count > 1]
        if twice:
            raise InputError(f"Corpus {self.name} lists {len(twice)} clips more than once, the first is {twice[0]}.")
        groups = {clip.group for clip in self.clips if clip.group}
        words = (self.name, *sorted({*groups, *self.classes}), *(clip.key for clip in self.clips))
        if not is_text("".join(words)):
            odd = [word for word in words if not is_text(word)]
            raise InputError(
                f"{len(odd)} names in {self.folder or self.name} are no Unicode text, the first is {odd[0]!r}: they "
                "come from another system. Rename them, files for example with `convmv -r -f latin1 -t utf8 --notest "
                "FOLDER`."
            )
        if not self.multi_label:
            for clip in self.clips:
                clip.label  # noqa: B018  (raises unless there is exactly one)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every label, sorted: a class id means the same on every machine and in every run."""
        return tuple(sorted({label for clip in self.clips for label in clip.labels}))

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Clips per class, in the order of the classes."""
        counted = Counter(label for clip in self.clips for label in clip.labels)
        return {label: counted[label] for label in self.classes}


def is_text(word: str) -> bool:
    """Whether it can be written as UTF-8, which a file's name need not be."""
    try:
        word.encode()
        return True
    except UnicodeEncodeError:
        return False


def audio_files(folder: Path) -> list[Path]:
    """Every audio file below `folder`, sorted by its path there."""
    found = [path for path in visible_files(folder) if path.suffix.lower() in AUDIO_SUFFIXES]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` but hidden ones, also behind links; not a folder again below itself."""
    return _visible_files(folder, above=frozenset())


def _visible_files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = Path(folder, name)
        if path.is_dir() and not name.startswith((".", "__MACOSX")):
            yield from _visible_files(path, above | {real})
        elif not name.startswith(".") and path.is_file():
            yield path


def broken_links(folder: Path) -> Iterator[Path]:
    """Every link below `folder` to what is not there: a class or a recording that would vanish without a word."""
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above, name)
            if path.is_symlink() and not path.exists():
                yield path


def split_name(word: str) -> str | None:
    """train, valid or test for any common spelling of it, None for another word."""
    return SPLIT_SPELLINGS.get(word.strip().lower())
