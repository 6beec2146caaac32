"""Data sets of the Hugging Face hub by their id: which commit a revision is, and its recordings and tables in a folder.

hub.fetch("org/name", data)  hub.fetch("org/name@v1.0", data)      # data/hub/org--name/<commit>

The hub's own library does the fetching: tokens (HF_TOKEN, `hf auth login`), mirrors (HF_ENDPOINT), several files at a
time. A broken connection goes on where it broke, another call with the files that are missing; their sizes are checked,
no checksums. Real files instead of its cache's links: own data takes two names of one file for one recording.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from audioconfit.corpora import own
from audioconfit.corpora.clips import AUDIO_SUFFIXES, split_name
from audioconfit.errors import InputError

ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^@]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
TABLES = (".csv", ".tsv", ".jsonl")
SUFFIXES = (*sorted(AUDIO_SUFFIXES), *TABLES, ".parquet")
CONVERTED = "refs/convert/parquet"  # the hub's own copy of many data sets that come in other formats
COMPLETE = ".complete"  # a file in a commit's folder, once all of it is there
TIMEOUT_SECONDS = 60.0
# What the library raises where a request fails. Its HTTP library is not the same in all releases.
HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]
XET_ERROR: type[Exception] = getattr(errors, "XetDownloadError", RuntimeError)
FAILURES = (HTTP_ERROR, XET_ERROR, OSError, json.JSONDecodeError, errors.HFValidationError)


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository, fetched."""

    repository: str
    commit: str
    folder: Path


def is_id(name: str) -> bool:
    """Whether this can be the id of a data set, with or without @revision."""
    return ID.fullmatch(name) is not None


def pinned(name: str, commit: str) -> str:
    """The id `name` at this commit, whatever revision it named."""
    return f"{name.partition('@')[0]}@{commit}"


def fetch(name: str, data: Path) -> Snapshot:
    """The recordings and tables of `name` below `data`; nothing is asked where the commit is named and is there.

    InputError: no such data set or revision, one whose terms must be accepted first, no network, no recordings.
    """
    match = ID.fullmatch(name)
    assert match is not None  # the caller asked is_id
    repository, revision = match["repository"], match["revision"]
    home = data / "hub" / repository.replace("/", "--")
    with _refusals(name, repository, home):
        commit = revision if revision and COMMIT.fullmatch(revision) else _commit(repository, revision)
        folder = home / commit
        if not (folder / COMPLETE).is_file():
            _fetch(repository, commit, folder)
    return Snapshot(repository, commit, folder)


def _commit(repository: str, revision: str | None) -> str:
    found = huggingface_hub.HfApi(endpoint=endpoint()).dataset_info(
        repository, revision=revision, timeout=TIMEOUT_SECONDS
    )
    assert found.sha is not None
    return found.sha


def _fetch(repository: str, commit: str, folder: Path) -> None:
    api = huggingface_hub.HfApi(endpoint=endpoint())
    listed = api.list_repo_files(repository, repo_type="dataset", revision=commit)
    wanted = [name for name in listed if PurePosixPath(name).suffix.lower() in SUFFIXES]
    _check(repository, listed, wanted)
    huggingface_hub.snapshot_download(
        repository,
        repo_type="dataset",
        revision=commit,
        local_dir=folder,
        allow_patterns=[_pattern(suffix) for suffix in SUFFIXES],
        endpoint=endpoint(),
    )
    if missing := [name for name in wanted if not (folder / name).is_file()]:  # it also returns what it could not ask
        raise ConnectionError(f"{len(missing)} of {len(wanted)} files did not come, such as {missing[0]}")
    (folder / COMPLETE).touch()


def _pattern(suffix: str) -> str:
    """Names that end so, in capitals or not."""
    return "*" + "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in suffix)


def _check(repository: str, listed: Sequence[str], wanted: Sequence[str]) -> None:
    """InputError where the listing tells that the files cannot be read as one data set."""
    suffixes = {PurePosixPath(name).suffix.lower() for name in wanted}
    if not suffixes - set(TABLES):
        shown = ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")
        raise InputError(
            f"The data set {repository} has neither recordings nor Parquet files; it has {shown or 'nothing'}. The hub "
            f"may have a copy of it in Parquet: {repository}@{CONVERTED}."
        )
    parquet = [PurePosixPath(name) for name in wanted if name.lower().endswith(".parquet")]
    tops = sorted({path.parts[0] for path in parquet if len(path.parts) > 1})
    if len(tops) > 1 and not all(split_name(top) for top in tops):
        raise InputError(
            f"The data set {repository} has several parts, {', '.join(tops[:10])}, which may be other tasks or copies "
            f"of each other. Fetch one, `hf download {repository} --repo-type dataset --include '{tops[0]}/*' "
            "--local-dir FOLDER`, and name its folder."
        )


def readable(folder: Path) -> Path:
    """What of a snapshot to read: the folder below which everything lies; InputError where tables could say the labels
    and nothing tells which one does.
    """
    while True:
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        if len(entries) != 1 or not entries[0].is_dir():
            break
        folder = entries[0]
    files = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder))]
    tables = sorted(path for path in files if path.suffix.lower() in (*TABLES, ".parquet"))
    embedded = any(path.suffix.lower() == ".parquet" and path.name not in own.METADATA for path in tables)
    if tables and not embedded and not any(_metadata(path, folder) for path in tables):
        shown = ", ".join(path.relative_to(folder).as_posix() for path in tables[:5])
        raise InputError(
            f"{folder} has tables, {shown}, and none of them is a metadata.csv at its top or in a split's folder. Name "
            f"the one that lists the recordings, such as {tables[0]}, or the folder if its folders are the classes."
        )
    return folder


def _metadata(path: Path, folder: Path) -> bool:
    """Whether this table is one that own data in `folder` is read by."""
    of_split = path.parent.parent == folder and split_name(path.parent.name) is not None
    return path.name in own.METADATA and (path.parent == folder or of_split)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextmanager
def _refusals(name: str, repository: str, home: Path) -> Iterator[None]:
    """What the hub refuses, and a network that is not there, in words that lead on."""
    page = f"{endpoint()}/datasets/{repository}"
    token = f"set HF_TOKEN to a token of an account that may read it ({endpoint()}/settings/tokens)"
    try:
        yield
    except GatedRepoError:
        raise InputError(f"{name} is gated: accept its terms at {page}, and {token}.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"There is no folder {name} here, and the hub shows no such data set at {page}. If it is private, {token}."
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repository} has no revision {name.partition('@')[2]!r}; see {page}/tree/main.") from None
    except FAILURES as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        there = sorted(f"{repository}@{place.parent.name}" for place in home.glob(f"*/{COMPLETE}"))
        raise InputError(
            f"There is no folder {name} here, and the hub did not give it ({reason}). The same command goes on with "
            "what is missing. "
            + (
                f"What is here needs no network: {', '.join(there)}."
                if there
                else f"Without a network, bring its files from {page} in a folder."
            )
        ) from None
