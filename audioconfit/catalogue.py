"""The catalogue: which of the six corpora are here, how they compare with the paper's Table 1, how to get the rest."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from audioconfit import audio, corpora
from audioconfit.corpora import CORPORA, Corpus, Source
from audioconfit.corpora.sources import Archive, Hub
from audioconfit.errors import InputError

SHORTER = 0.9  # of Table 1's duration: below that the copy is called shorter
WORDS = {"download": "to download", "bring": "to bring", "generated": "generated"}
Status = Literal["ready", "generated", "incomplete", "download", "bring"]


@dataclass(frozen=True)
class State:
    """One known corpus below a data folder."""

    source: Source
    status: Status
    corpus: Corpus | None = None
    looked: tuple[Path, ...] = ()  # where it was looked for, if it is not there

    @property
    def there(self) -> bool:
        """Whether a sweep can run on it as it is."""
        return self.status in ("ready", "generated")

    @property
    def how(self) -> str:
        """What is wrong or missing and what to do, one sentence; empty if all is well."""
        if self.status == "incomplete":
            assert self.corpus is not None
            found = f"{len(self.corpus.clips)} of {self.source.clip_count} clips"
            return f"Only {found}: complete it ({self.source.how}) or pass --allow-incomplete"
        if self.status == "download":
            assert self.source.download is not None
            return f"--download fetches {_bytes(self.source.download)}: {self.source.how} ({self.source.licence})"
        return f"{self.source.how} ({self.source.licence})" if self.status == "bring" else ""


def state(name: str, data: Path) -> State:
    """Whether corpus `name` is below `data`, whole, and if not, how to get it. Opens no audio."""
    if name not in CORPORA:
        raise InputError(f"Unknown corpus {name!r}; choose one of {', '.join(sorted(CORPORA))}.")
    source = CORPORA[name]
    corpus = source.find(data)
    if corpus is None:
        looked = tuple(data / folder for folder in source.folders)
        return State(source, "bring" if source.download is None else "download", looked=looked)
    if corpus.generated:
        return State(source, "generated", corpus)
    try:
        corpora.check_complete(corpus)
    except InputError:
        return State(source, "incomplete", corpus)
    return State(source, "ready", corpus)


def states(data: Path, names: Sequence[str] = tuple(CORPORA)) -> list[State]:
    """The states of the named corpora, in Table 1's order unless names are given."""
    return [state(name, data) for name in names]


def listing(found: Sequence[State], *, durations: bool = False) -> Group:
    """What is there against Table 1, then a line per corpus: where it is or how to get it, and its licence.

    Fits 80 columns. `durations` reads every clip's header, which takes seconds for all six.
    """
    rows = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    rows.add_column("corpus", no_wrap=True)
    rows.add_column("state", no_wrap=True)
    for column in ("clips", "classes", *(("duration",) if durations else ())):
        rows.add_column(column, justify="right", no_wrap=True)
    lines = Table.grid(padding=(0, 2))
    for each in found:
        seconds = clip_seconds(each.corpus) if durations and each.corpus is not None else []
        rows.add_row(*_cells(each), *([f"{clock(sum(seconds))} of {clock(each.source.seconds)}"] if durations else []))
        lines.add_row(each.source.name, _sentences(each, seconds))
    return Group(rows, "", lines)


def _cells(each: State) -> list[str]:
    source, corpus = each.source, each.corpus
    clips, classes = (0, 0) if corpus is None else (len(corpus.clips), len(corpus.classes))
    cells = [f"{clips} of {source.clip_count}", f"{classes} of {source.class_count}"]
    return [source.name, WORDS.get(each.status, each.status), *cells]


def _sentences(each: State, seconds: Sequence[float]) -> str:
    if each.corpus is None:
        return each.how
    kind = "sounds of our synthesiser, not the corpus" if each.corpus.generated else each.source.licence
    sentences = [f"{each.corpus.folder} ({kind})", *(note.rstrip(".") for note in each.corpus.notes), each.how]
    return ". ".join(filter(None, [*sentences, *(_shorter(each, seconds) if seconds else [])]))


def _shorter(each: State, seconds: Sequence[float]) -> list[str]:
    """The sentence for a complete copy that lasts shorter than the paper's, with the reason where it shows."""
    if each.status != "ready" or sum(seconds) >= SHORTER * each.source.seconds:
        return []
    longest = max(seconds)
    cut = sum(abs(one - longest) < 0.01 for one in seconds) > len(seconds) / 2
    reason = f"its clips are cut to {longest:.1f} s" if cut else f"its clips last {sum(seconds) / len(seconds):.1f} s"
    return [f"This copy is shorter than the paper's: {reason}"]


def clip_seconds(corpus: Corpus) -> list[float]:
    """Every clip's duration by its header, 0 where it has none."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(audio.duration, corpus.clips))


def clock(seconds: float) -> str:
    """17 m 50 s, 24 m, 3 h 15 m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} m"
    return f"{minutes} m {rest:02d} s" if rest else f"{minutes} m"


def _bytes(remote: Archive | Hub) -> str:
    return f"{remote.size / 1e9:.1f} GB" if remote.size >= 1e9 else f"{remote.size / 1e6:.0f} MB"
