"""Source: the facts about a known corpus, and where its parser looks for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from audioconfit.corpora.clips import Corpus

GENERATED = ".generated"  # the synthesiser leaves this file in a folder that it wrote


@dataclass(frozen=True)
class Archive:
    """A file on a web server. `sha256` is None where no stable checksum is published (GitHub packs archives anew)."""

    url: str
    size: int  # bytes, about, where the server's own number is not known
    sha256: str | None = None


@dataclass(frozen=True)
class Hub:
    """Parquet files of a data set on the Hugging Face hub: those that match `patterns`."""

    repository: str
    patterns: tuple[str, ...]
    size: int  # bytes, about


@dataclass(frozen=True)
class Source:
    """Facts of one corpus (Table 1 of the paper) and how to read it."""

    name: str
    title: str
    task: str
    clip_count: int
    class_count: int
    seconds: float  # Table 1, to the minute
    licence: str
    homepage: str
    layout: str  # what a person should see in the folder
    folders: tuple[str, ...]  # spellings below the data folder, the first is where downloads go
    parse: Callable[[Path], Corpus | None]  # None: this folder does not hold the corpus
    download: Archive | Hub | None
    how: str  # how a person gets it, one sentence

    def candidates(self, data: Path) -> tuple[Path, ...]:
        """Folders that may hold this corpus, in the order in which they are tried; spellings ignore case."""
        if not data.is_dir():
            return ()
        return tuple(folder for spelling in self.folders for folder in descend(data, spelling.split("/")))

    def find(self, data: Path) -> Corpus | None:
        """The corpus in the first folder that holds it, or None."""
        for folder in self.candidates(data):
            corpus = self.parse(folder)
            if corpus is not None:
                return replace(corpus, folder=folder, generated=(folder / GENERATED).exists())
        return None


def descend(folder: Path, names: Sequence[str]) -> list[Path]:
    """Folders at `folder`/names[0]/names[1]/..., whatever the case of the names on disk."""
    if not names:
        return [folder]
    children = sorted(child for child in folder.iterdir() if child.is_dir() and child.name.lower() == names[0].lower())
    return [found for child in children for found in descend(child, names[1:])]


def first_folder(folder: Path, *paths: str) -> Path | None:
    """The first of the relative `paths` ("" is the folder itself) that is a folder, whatever its case."""
    for path in paths:
        for found in descend(folder, path.split("/") if path else []):
            return found
    return None
