"""Corpora: which clips exist, what they are called and who speaks in them. Reads names and tables, opens no audio."""

from dataclasses import replace
from pathlib import Path

from audioconfit import files
from audioconfit.corpora import emodb, esc50, gtzan, hub, manifests, mswc, own, timit
from audioconfit.corpora.clips import Clip, Corpus
from audioconfit.corpora.columns import UNNAMED, Columns
from audioconfit.corpora.hub import Snapshot
from audioconfit.corpora.sources import Source
from audioconfit.errors import InputError

__all__ = ["CORPORA", "Clip", "Columns", "Corpus", "Source", "load"]

CORPORA: dict[str, Source] = {
    source.name: source
    for source in (timit.SOURCE, gtzan.SOURCE, esc50.SOURCE, mswc.SPANISH, mswc.INDONESIAN, emodb.SOURCE)
}
COMPLETE = 0.9  # a copy with a smaller part of the clips is refused: scores on it are not scores on the corpus


def load(
    name_or_path: str,
    data: Path,
    *,
    allow_incomplete: bool = False,
    named: Columns = UNNAMED,
) -> Corpus:
    """A known corpus by its name, found below the folder `data`; own data by its path (or its name below `data`); or,
    where there is no such path, the hub's data set of that id, fetched into `data`. Own data and the hub's are read by
    the columns that are `named`.

    InputError: an unknown name, a corpus that is not there, and one that is clearly not all there unless
    `allow_incomplete`; the message says what was looked for and where the corpus comes from.
    """
    source = CORPORA.get(name_or_path.lower())
    if source is not None:
        for word, name in named.given.items():
            raise InputError(
                f"{source.title} has no column to choose as the {word}, but {name!r} is named: "
                "columns are named for your own data."
            )
        corpus = source.find(data)
        if corpus is None:
            raise InputError(_missing(source, data))
        if not allow_incomplete:
            check_complete(corpus)
        return corpus
    for path in (Path(name_or_path).expanduser(), data / name_or_path):
        if files.is_folder(path) or files.is_file(path):
            corpus = own.parse(path, named)
            return replace(corpus, name=f"{corpus.name}-own") if corpus.name in CORPORA else corpus
    if Path(name_or_path).suffix.lower() in manifests.SUFFIXES:
        raise InputError(f"There is no folder or manifest {name_or_path}.")
    if hub.is_id(name_or_path):
        return _of_hub(hub.fetch(name_or_path, data), named)
    if "/" in name_or_path:
        raise InputError(f"There is no folder or manifest {name_or_path}.")
    raise InputError(
        f"Unknown corpus {name_or_path!r}; choose one of {', '.join(sorted(CORPORA))}, give the path of your own data "
        "(a folder per class, or a manifest with the columns path,label), or a hub id, org/name."
    )


def _of_hub(snapshot: Snapshot, named: Columns) -> Corpus:
    corpus = own.parse(hub.readable(snapshot.folder), named)
    note = f"{snapshot.repository} of the Hugging Face hub, commit {snapshot.commit}."
    name = snapshot.repository.replace("/", "-")
    return replace(corpus, name=name, revision=snapshot.commit, notes=(note, *corpus.notes))


def check_complete(corpus: Corpus) -> None:
    """InputError if a known corpus lacks a tenth of its clips, or a class. Generated stand-ins pass."""
    source = CORPORA.get(corpus.name)
    if source is None or corpus.generated:
        return
    if len(corpus.clips) < COMPLETE * source.clip_count or len(corpus.classes) < source.class_count:
        where = f" in {corpus.folder}" if corpus.folder else ""
        raise InputError(
            f"{source.title}{where} is incomplete: {len(corpus.clips)} of {source.clip_count} clips, "
            f"{len(corpus.classes)} of {source.class_count} classes. Complete it ({source.how}), "
            "or pass --allow-incomplete to work on what is there."
        )


def _missing(source: Source, data: Path) -> str:
    looked = ", ".join(str(data / folder) for folder in source.folders)
    there = "" if data.is_dir() else f" (the data folder {data} does not exist)"
    here = next((Path(folder) for folder in source.folders if Path(folder).is_dir()), None)
    hint = f"There is a folder {here} where you are: name the folder that it lies in with --data . " if here else ""
    if source.name == "timit" and data.is_dir() and (tree := timit.tree_below(data)):
        hint = f"Its folders seem to lie in {tree}: move or link that as {data / source.folders[0]}. "
    return (
        f"{source.title} is not there: looked for {source.layout} in {looked}{there}. {hint}"
        f"It comes from {source.homepage}: {source.how}."
    )
