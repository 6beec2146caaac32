"""MLflow away, emptied or hostile: the journal keeps everything, the writer goes on trying, nobody waits for ever."""

import time
from pathlib import Path
from typing import Any

import makers
import pytest
from mlflow import MlflowClient

from audioconfit.errors import InputError
from sweeps import grid
from sweeps.identity import Identity
from sweeps.tracking import journal, server
from sweeps.tracking import tracker as tracking
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker

AWAY = ConnectionError("no route to http://me:secret@host:5000/api")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    for name, value in {"RETRY_SECONDS": (0.05, 0.1), "AWAY_SECONDS": 0.5, "GATHER_SECONDS": 0.05}.items():
        monkeypatch.setattr(tracking, name, value)


def tell(tracker: Tracker, key: str) -> None:
    tracker.start(key, cell="a-cell", name=key, kind="trial", params={"batch_size": 16}, tags={})
    for epoch in (1, 2):
        tracker.metrics(key, epoch, {"loss": 1 / epoch})
    tracker.end(key, Outcome.COMPLETE)


def told(tracker: Tracker, key: str) -> list[float]:
    """The losses that MLflow has of the only run of that key, which has ended."""
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker.experiment], f"tags.key = '{key}'")
    assert run.info.status == "FINISHED"
    return [point.value for point in client.get_metric_history(run.info.run_id, "loss")]


def goes_away(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, *, attempts: int) -> list[str]:
    """From now on that many calls fail. Returns the calls."""
    calls: list[str] = []
    send = tracker.client.log_batch

    def away(run_id: str, **batch: Any) -> None:
        calls.append(run_id)
        if len(calls) <= attempts:
            raise AWAY
        send(run_id, **batch)

    monkeypatch.setattr(tracker.client, "log_batch", away)
    return calls


def test_a_server_that_comes_back_in_mid_sweep_gets_everything(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(uri, Identity("back", "0123456789ab"), tmp_path)
    calls = goes_away(tracker, monkeypatch, attempts=12)
    tell(tracker, "t")
    while len(calls) < 8:  # more often than it tried before it gave up for good in earlier versions
        time.sleep(0.01)
    tell(tracker, "u")
    while tracker.journal.applied < tracker.journal.written:
        time.sleep(0.01)
    tracker.close()
    assert (told(tracker, "t"), told(tracker, "u")) == ([1.0, 0.5], [1.0, 0.5])
    assert (tracker.problems, tracker.failing) == ([], None)


@pytest.mark.parametrize("how", ["zeroed in place", "halved", "emptied", "mended"])
def test_a_journal_that_has_lost_lines_makes_no_run_twice(uri: str, tmp_path: Path, how: str) -> None:
    """MLflow has runs of keys that the journal knows nothing of any more."""
    sweep = Identity(f"lost-{how.partition(' ')[0]}", "0123456789ab")
    tracker = Tracker(uri, sweep, tmp_path)
    tell(tracker, "t")
    tracker.close()
    content = (tmp_path / journal.EVENTS).read_bytes()
    left = {"zeroed in place": bytes(len(content) - 1) + b"\n", "halved": content[: len(content) // 2]}
    (tmp_path / journal.EVENTS).write_bytes(left.get(how, b""))
    if how == "mended":  # as check.py leaves it
        (tmp_path / journal.MARK).write_text("0")
    again = Tracker(uri, sweep, tmp_path)
    tell(again, "t")
    again.close()
    assert told(again, "t") == [1.0, 0.5]


def test_one_that_stays_away_is_waited_for_no_longer_and_the_next_start_sends_the_rest(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Identity("away", "0123456789ab")
    tracker = Tracker(uri, sweep, tmp_path)
    tell(tracker, "t")
    assert tracker.flush()
    calls = goes_away(tracker, monkeypatch, attempts=10_000)
    tell(tracker, "u")
    began = time.monotonic()
    assert not tracker.flush()
    tried = len(calls)
    tracker.close()
    assert time.monotonic() - began < 5.0
    assert len(calls) > tried  # once more at the end
    assert tracker.problems == ["ConnectionError: no route to http://me:***@host:5000/api"]
    again = Tracker(uri, sweep, tmp_path)
    again.close()
    assert (told(again, "t"), told(again, "u"), again.problems) == ([1.0, 0.5], [1.0, 0.5], [])


def test_an_experiment_that_is_deleted_in_mid_sweep_loses_nothing_once_it_is_restored(uri: str, tmp_path: Path) -> None:
    sweep, client = Identity("deleted", "0123456789ab"), MlflowClient(tracking_uri=uri)
    tracker = Tracker(uri, sweep, tmp_path)
    tell(tracker, "t")
    assert tracker.flush()
    client.delete_experiment(tracker.experiment)
    tell(tracker, "u")
    assert not tracker.flush()
    tracker.close()
    assert "active" in tracker.problems[0]
    with pytest.raises(InputError, match="was deleted in MLflow"):
        Tracker(uri, sweep, tmp_path)
    client.restore_experiment(tracker.experiment)
    again = Tracker(uri, sweep, tmp_path)
    again.close()
    assert (told(again, "t"), told(again, "u")) == ([1.0, 0.5], [1.0, 0.5])


@pytest.mark.parametrize("how", ["the database is gone", "the mark is garbage"])
def test_what_mlflow_has_lost_is_told_again_from_the_journal(tmp_path: Path, how: str) -> None:
    database, sweep = tmp_path / "mlflow.db", Identity("lost", "0123456789ab")
    tracker = Tracker(f"sqlite:///{database}", sweep, tmp_path / "tracking")
    tell(tracker, "t")
    tracker.close()
    if how == "the mark is garbage":
        (tmp_path / "tracking" / "events.applied").write_text("")
    else:
        database.unlink()
    again = Tracker(f"sqlite:///{database}", sweep, tmp_path / "tracking")
    again.close()
    assert told(again, "t") == [1.0, 0.5]


def test_a_server_that_is_away_is_named_at_the_plan_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 2.0)
    data = makers.tones(tmp_path / "tones")
    words = ["--datasets", str(data), "--backbones", "wav2vec2-random", "--storage", str(tmp_path / "storage")]
    assert grid.main([*words, "--tracking-uri", "http://me:secret@127.0.0.1:9"]) == 2
    assert not (tmp_path / "storage" / "prepared").exists()
    said = capsys.readouterr().err
    assert "MLflow at http://me:***@127.0.0.1:9 does not answer" in said
    began = time.monotonic()
    # Nobody's (RFC 5737), and no server's; MLflow alone would try the last one for 100 s.
    for address in ("http://192.0.2.1:5000", "http://127.0.0.1:9", "postgresql+psycopg://me:secret@127.0.0.1:9/x"):
        with pytest.raises(InputError, match="does not answer"):
            server.check_answer(address)
    assert time.monotonic() - began < 10.0


def test_an_address_that_cannot_be_used_is_an_error_of_the_flag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--tracking-uri: MLflow at .* cannot be used") as raised:
        Tracker("nosuch://me:secret@x", makers.IDENTITY, tmp_path)
    assert "secret" not in str(raised.value)
