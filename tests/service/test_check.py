"""The audit of a storage: it names what was damaged, mends what can be mended, and finds nothing afterwards."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import frozen_runs
import makers
import pytest
from frozen_runs import begun, run
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from audioconfit import files
from audioconfit.errors import InputError
from sweeps import check, faults, identity
from sweeps.request import resuming, searched
from sweeps.request.cells import Cell
from sweeps.search.studies import Budget, Studies, open_storage
from sweeps.tracking import journal, server
from sweeps.tracking.journal import End, Journal, Metrics, Outcome, Start
from sweeps.tracking.tracker import Tracker

CELL = makers.cell()
# Beside its own three numbers, one of each kind that --search knows.
FURTHER = searched.parse(["lr=1e-5..1e-3:log", "epochs=3..9", "temperature=0.05,0.1", "schedule=constant,cosine"])
WIDER = replace(CELL, space=replace(CELL.space, further=FURTHER, probe_layers=(0, 1, "last")))


def search(folder: Path, cell: Cell = CELL, *, sampler: str = "tpe") -> list[FrozenTrial]:
    """A search of seven trials as a sweep's driver tells it to Optuna and to the journal: complete, stopped, failed,
    one with its stage 1 stored, one still running. Returns Optuna's trials.
    """
    identity.of(folder, begun=False)
    resuming.reconcile(folder, [cell])
    studies, log = opened(folder, cell, sampler=sampler), Journal(folder / "tracking")

    def write(event: journal.Event) -> None:
        log.write(event, lambda number, written: None)

    for number in range(7):
        asked = studies.start("t")
        assert asked is not None
        key, recipe = cell.key(number), cell.recipe(asked.trial.params)
        params = {name: str(value) for name, value in recipe.model_dump(mode="json").items()}
        write(Start(key, 1, cell.name, key, params, {"kind": "trial"}))
        stored = number == 3
        for epoch in (1, 2):
            if not stored:
                studies.report("t", {"epoch": epoch, "valid_knn": 0.1 * epoch + 0.01 * number})
            write(Metrics(key, 2, epoch, {"epoch": epoch, "valid_knn": 0.1 * epoch + 0.01 * number}))
        if number == 4:
            studies.finish("t", {"failed": "it broke"})
            write(End(key, 3, Outcome.FAILED, "it broke"))
        elif number == 5:
            studies.finish("t", {})
            write(End(key, 3, Outcome.PRUNED))
        elif number < 6:
            told = {"valid_score": 0.3 + 0.1 * number, "cost": 12.0, "trained_seconds": 0.0 if stored else 1.5}
            studies.finish("t", {**told, "ended": True})
            write(Metrics(key, 3, 5, {**told, "valid_knn": 0.4}))
            write(End(key, 3, Outcome.COMPLETE))
    log.close()
    assert studies.studies[cell.name].storage is not None
    return studies.history(cell)


def opened(folder: Path, cell: Cell = CELL, *, retry_failed: bool = False, sampler: str = "tpe") -> Studies:
    where = {"sweep": identity.of(folder, begun=True), "storage": open_storage(f"sqlite:///{folder / 'optuna.db'}")}
    how = {"shared": False, "retry_failed": retry_failed, "sampler": sampler}
    return Studies([cell], budget=Budget(9), root=folder, **how, **where)


def said(trials: list[FrozenTrial]) -> list[object]:
    return [
        (one.number, one.state, one.params, one.value, one.intermediate_values, one.user_attrs.get("cost"))
        for one in trials
    ]


@pytest.mark.parametrize(
    ("how", "cell"),
    [("halved", CELL), ("emptied", CELL), ("removed", CELL), ("begun anew", CELL), ("removed", WIDER)],
)
def test_studies_are_written_anew_from_the_journal(
    tmp_path: Path, how: str, cell: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "try"
    before = search(folder, cell)
    assert [one.state for one in before].count(TrialState.COMPLETE) == 4
    assert check.main([str(tmp_path)]) == 0
    database = folder / "optuna.db"
    if how in ("removed", "begun anew"):
        database.unlink()
    if how == "begun anew":
        open_storage(f"sqlite:///{database}")  # as a start leaves it that was refused
    if how in ("halved", "emptied"):
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2 if how == "halved" else 0])
    assert check.main([str(tmp_path)]) == 1
    assert "--repair mends it" in capsys.readouterr().out
    assert check.main([str(tmp_path), "--repair"]) == 0
    assert check.main([str(tmp_path)]) == 0
    again = opened(folder, cell)
    assert said(again.history(cell)) == said(before)
    assert [asked.trial.number for asked in again.held] == [6]  # the one that ran goes on
    assert again.remaining() == 3


def test_studies_that_are_written_anew_know_which_trials_repeat_failed_ones(tmp_path: Path) -> None:
    """Else they would count for `--trials`, and the failed ones would be run again at every request."""
    folder = tmp_path / "try"
    search(folder)
    studies, log = opened(folder, retry_failed=True), Journal(folder / "tracking")
    for name in ("went on", "again"):
        asked = studies.start(name)
    assert asked is not None
    params = {name: str(value) for name, value in CELL.recipe(asked.trial.params).model_dump(mode="json").items()}
    log.write(Start(CELL.key(7), 4, CELL.name, CELL.key(7), params, {"kind": "trial"}), lambda *_: None)
    log.close()
    left = studies.remaining() + len(studies.live)
    (folder / "optuna.db").unlink()
    assert check.main([str(tmp_path), "--repair"]) == 0
    rebuilt = opened(folder, retry_failed=True)
    assert [one.user_attrs.get("again") for one in rebuilt.history(CELL)] == [None] * 7 + [4]
    assert rebuilt.remaining() == left


@pytest.mark.parametrize("has_runs", [True, False])
def test_a_sweep_whose_record_and_studies_are_lost_has_the_id_of_its_runs_or_a_new_one(
    tmp_path: Path, has_runs: bool
) -> None:
    folder = tmp_path / "try"
    before = search(folder)
    sweep = identity.of(folder, begun=True)
    if has_runs:
        tracker = Tracker(server.database_in(tmp_path), sweep, folder / "tracking")
        assert tracker.flush()
        tracker.close()
    (folder / identity.RECORD).write_text('{"id": "1"} garbage')
    os.truncate(folder / "optuna.db", 5000)
    assert check.main([str(tmp_path), "--repair"]) == 0
    assert (identity.known(folder) == sweep.id) is has_runs
    assert said(opened(folder).history(CELL)) == said(before)


def test_a_database_whose_tables_were_being_changed_is_damaged(tmp_path: Path) -> None:
    """As a driver leaves it that is killed among MLflow's changes to them; MLflow cannot open it any more."""
    search(tmp_path / "try")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE _alembic_tmp_experiments (name TEXT)")
        database.execute("CREATE TABLE experiments (name TEXT)")
    with pytest.raises(InputError, match=r"mlflow\.db is damaged \(a change of its tables was broken off\)"):
        faults.check_database(tmp_path / "mlflow.db", tmp_path)
    assert check.main([str(tmp_path), "--repair"]) == 0
    assert not (tmp_path / "mlflow.db").exists()


def test_mlflow_s_tables_are_made_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = server.database_in(tmp_path)
    (tmp_path / "mlflow.db").touch()  # emptied

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_table", raise_(Killed))  # MLflow has made some tables by then
        with pytest.raises(Killed):
            server.make_whole(uri)
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    server.make_whole(uri)
    assert [one.name for one in MlflowClient(tracking_uri=uri).search_experiments()] == ["Default"]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_new_database_inherits_nothing_from_one_that_is_gone(tmp_path: Path) -> None:
    """Its journal of a transaction that was broken off is rolled back into whatever has its name."""
    path, copy = tmp_path / "optuna.db", tmp_path / "copy"
    with closing(sqlite3.connect(path)) as old:
        old.executescript("CREATE TABLE rows (text); INSERT INTO rows VALUES (hex(zeroblob(50000)))")
        old.execute("PRAGMA cache_spill = 1")
        old.execute("PRAGMA cache_size = 1")
        old.execute("BEGIN")
        old.execute("UPDATE rows SET text = hex(zeroblob(60000))")  # more than the cache holds: the journal is on disk
        shutil.copy(f"{path}-journal", copy)
    for database in (path, tmp_path / "mlflow.db"):
        database.write_bytes(b"")
        shutil.copy(copy, f"{database}-journal")
    open_storage(f"sqlite:///{path}")
    tracker = Tracker(server.database_in(tmp_path), identity.of(tmp_path / "try", begun=False), tmp_path / "tracking")
    tracker.close()
    for database in (path, tmp_path / "mlflow.db"):
        assert faults.damage(database, whole=True) is None
        with closing(sqlite3.connect(database)) as opened_:
            assert not opened_.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchall()


def raise_(error: type[BaseException]) -> Callable[..., None]:
    def fail(*words: object, **more: object) -> None:
        raise error

    return fail


def test_a_number_whose_lines_are_lost_is_asked_for_no_more_where_its_results_are_there(tmp_path: Path) -> None:
    """MLflow has a run of that name with other numbers."""
    folder = tmp_path / "try"
    search(folder)
    (folder / "trials" / CELL.key(2)).mkdir(parents=True)
    events = folder / "tracking" / journal.EVENTS
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(line for line in lines if CELL.key(2).encode() not in line))
    (folder / "optuna.db").unlink()
    check.main([str(tmp_path), "--repair"])
    again = opened(folder, retry_failed=True)
    assert [one.state for one in again.history(CELL)].count(TrialState.WAITING) == 0
    assert [one.user_attrs.get("again") for one in again.history(CELL)[7:]] == [4]  # and is not run without a point


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_trial_that_the_journal_does_not_know_is_asked_again_under_its_number(tmp_path: Path, sampler: str) -> None:
    folder = tmp_path / "try"
    before = search(folder, sampler=sampler)
    events = folder / "tracking" / journal.EVENTS
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(line for line in lines if CELL.key(2).encode() not in line))
    (folder / "optuna.db").unlink()
    assert check.main([str(tmp_path), "--repair"]) == 0
    for _ in range(2):  # the second start finds what the first one stored
        again = opened(folder, retry_failed=True, sampler=sampler)
        assert len(again.history(CELL)) == 8  # with the failed one once more
    asked = []
    for name in "abc":
        one = again.start(name)
        assert one is not None
        asked.append((one.trial.number, one.trial.params))
        stored = opened(folder, sampler=sampler).history(CELL)[one.trial.number]
        assert (stored.state, stored.params) == (TrialState.RUNNING, one.trial.params)
        again.finish(name, {"ended": True, "valid_score": 0.5, "cost": 1.0})
    assert asked[:2] == [(6, before[6].params), (7, before[4].params)]
    assert asked[2][0] == 2
    if sampler != "tpe":  # which has learned since
        assert asked[2][1] == before[2].params


def test_the_record_of_a_sweep_is_written_anew_from_its_studies(tmp_path: Path) -> None:
    folder = tmp_path / "try"
    search(folder)
    before = [(folder / name).read_text() for name in (resuming.RECORD, identity.RECORD)]
    for name in (resuming.RECORD, identity.RECORD, resuming.CONDUCT):
        (folder / name).write_text("")
    with pytest.raises(InputError, match=r"identity\.json is damaged.*check\.py .* --repair writes it anew"):
        identity.of(folder, begun=True)
    assert check.main([str(tmp_path)]) == 1
    assert check.main([str(tmp_path), "--repair"]) == 0
    resuming.reconcile(folder, [CELL])
    assert (folder / resuming.RECORD).read_text() == before[0]
    assert str(identity.known(folder)) in before[1]


def test_lines_of_the_journal_that_cannot_be_read_are_dropped_and_the_others_sent_again(tmp_path: Path) -> None:
    folder = tmp_path / "try"
    search(folder)
    path = folder / "tracking" / journal.EVENTS
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\x00garb\xffage\r", b"[1]", *lines[1:]]))
    files.write(folder / "tracking" / journal.MARK, "9")
    opened_ = Journal(folder / "tracking")
    opened_.close()
    assert (opened_.damaged, opened_.written, len(opened_.unapplied)) == ([2, 3], len(lines) + 1, len(lines) - 8)
    assert check.main([str(tmp_path), "--repair"]) == 0
    assert path.read_bytes() == b"\n".join(lines)
    again = Journal(folder / "tracking")
    again.close()
    assert again.applied == 0


def test_damaged_stages_samples_and_results_are_named_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    makers.tones(tmp_path / "tones")
    trial, storage = begun(tmp_path, "try"), tmp_path / "storage"
    identity.of(trial.root, begun=False)
    files.write(trial.root / resuming.RECORD, "{}")
    run(trial)
    assert check.main([str(storage)]) == 0
    (stage,) = (trial.root / "stages").iterdir()
    damaged = [trial.prepared / "samples.i16", stage / "train.safetensors", trial.folder / "probe.safetensors"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-64] + bytes(64))
    frozen_runs.forget()
    capsys.readouterr()
    assert check.main([str(storage)]) == 1
    shown = capsys.readouterr().out
    for path in damaged:
        assert str(path.parent) in shown
    assert check.main([str(storage), "--repair"]) == 0
    run(begun(tmp_path, "try"))
    assert check.main([str(storage)]) == 0


def test_a_storage_whose_sweep_runs_is_looked_at_and_not_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "try"
    search(folder)
    with resuming.lease(folder):
        assert check.main([str(tmp_path)]) == 0
        assert check.main([str(tmp_path), "--repair"]) == 2
    assert "Another driver" in capsys.readouterr().err


def test_a_damaged_mlflow_database_is_set_aside(tmp_path: Path) -> None:
    search(tmp_path / "try")
    shutil.copy(tmp_path / "try" / "optuna.db", tmp_path / "mlflow.db")  # any database, for nobody opens it
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.truncate(5000)
    assert check.main([str(tmp_path)]) == 1
    assert check.main([str(tmp_path), "--repair"]) == 0
    assert not (tmp_path / "mlflow.db").exists()
    assert [path.stat().st_size for path in tmp_path.glob("mlflow.db.damaged-*")] == [5000]
