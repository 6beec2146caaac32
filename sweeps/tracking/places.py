"""Where MLflow keeps a sweep's artefacts: its database holds absolute paths, which a moved or copied storage takes
along. Whoever went on would write to the old place.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from audioconfit.errors import InputError
from sweeps import identity
from sweeps.identity import Identity

ARTEFACTS = "artifacts"  # in the sweep's folder `tracking`
# Every column of MLflow's database that holds a path of artefacts.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def of(tracking: Path) -> str:
    """The place of the artefacts of the sweep whose folder `tracking` this is, as MLflow holds it."""
    return (tracking / ARTEFACTS).absolute().as_uri()


def check(location: str, tracking: Path, sweep: Identity) -> None:
    """InputError where MLflow would put the sweep's artefacts into a folder that it was moved or copied from."""
    there = _path(location)
    if there is None or there.resolve() == (tracking / ARTEFACTS).resolve():
        return
    home = there.parents[1]
    if home.is_dir() and identity.known(home) != sweep.id:
        return  # another storage's sweep of that name, which uses the same MLflow
    how = "is not there any more" if not home.is_dir() else "is the sweep that this one was copied from"
    raise InputError(
        f"MLflow keeps the artefacts of {sweep.name!r} in {there}, and {home} {how}. If the storage was moved or "
        f"copied, python sweeps/check.py {tracking.parents[1]} --repair writes the new place into its mlflow.db; else "
        "choose another --name."
    )


def known(database: Path, experiment: str) -> str | None:
    """The place of an experiment's artefacts in MLflow's SQLite database; None: it knows none, or cannot be read."""
    if not database.exists():
        return None
    with closing(sqlite3.connect(database, timeout=60.0)) as connection, suppress(sqlite3.DatabaseError):
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        for (location,) in connection.execute(query, (experiment,)):
            return str(location)
    return None


def sweep(database: Path, experiment: str) -> str | None:
    """The id that the runs of an experiment bear, if all bear one."""
    query = (
        "SELECT DISTINCT tags.value FROM tags JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id) "
        "WHERE experiments.name = ? AND tags.key = ?"
    )
    if database.exists():
        with closing(sqlite3.connect(database, timeout=60.0)) as connection, suppress(sqlite3.DatabaseError):
            found = [str(value) for (value,) in connection.execute(query, (experiment, identity.TAG))]
            return found[0] if len(found) == 1 else None
    return None


def move(database: Path, old: str, new: str) -> int:
    """Writes the new place for the old one into MLflow's SQLite database, in one transaction. Returns how many entries
    held it.
    """
    with closing(sqlite3.connect(database, timeout=60.0)) as connection, connection:
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return sum(
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                (new, len(old) + 1, old, f"{old}/%"),
            ).rowcount
            for table, column in COLUMNS
            if table in known
        )


def _path(location: str) -> Path | None:
    """A local place; None: artefacts are elsewhere (s3, a server's)."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("file", "") else None
