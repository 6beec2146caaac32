"""An MLflow server that is slow, answers with 500 or 413, or hangs up when it has done what was asked: a sentence, no
loss, and the next start sends the rest. A real server, behind a proxy that misbehaves on demand. Half a minute.
"""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from audioconfit.errors import InputError
from sweeps.identity import Identity
from sweeps.tracking import server, tracker
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker

pytestmark = pytest.mark.slow


class Proxy(ThreadingHTTPServer):
    """Passes requests on. `mood`: "well", or what it does instead to whatever writes: a status, "slow", "hangs up"."""

    daemon_threads = True
    mood: str = "well"
    port = 0


class Passing(BaseHTTPRequestHandler):
    """One request, to the real server and back."""

    server: Proxy

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.server.mood if self.command != "GET" else "well"
        if mood.isdigit():
            self.send_response(int(mood))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.mood == "slow":
            time.sleep(1.0)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as there:
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            content = answer.read()
        if mood == "hangs up":
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815  (as http.server calls them)

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("server")
    with contextlib.chdir(folder), contextlib.ExitStack() as stack:  # where a server keeps artefacts
        real = stack.enter_context(server.running(server.database_in(folder), server.free_port(None)))
        proxy = stack.enter_context(Proxy(("127.0.0.1", 0), Passing))
        proxy.port = int(real.address.rpartition(":")[2])
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    for name, value in {"RETRY_SECONDS": (0.05, 0.1), "AWAY_SECONDS": 1.0, "GATHER_SECONDS": 0.05}.items():
        monkeypatch.setattr(tracker, name, value)


def address(proxy: Proxy) -> str:
    return f"http://me:secret@127.0.0.1:{proxy.server_address[1]}"


def tell(tracker: Tracker, key: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text("{}")
    tracker.start(key, cell="a-cell", name=key, kind="trial", params={"batch_size": 16}, tags={})
    for epoch in (1, 2):
        tracker.metrics(key, epoch, {"loss": 1 / epoch})
    tracker.end(key, Outcome.COMPLETE, files=folder)


def told(tracker: Tracker, key: str) -> tuple[list[float], list[str]]:
    """Losses and artefacts that MLflow has of the only run of that key, which has ended."""
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker.experiment], f"tags.key = '{key}'")
    assert run.info.status == "FINISHED"
    losses = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
    return losses, [one.path for one in client.list_artifacts(run.info.run_id)]


ALL = ([1.0, 0.5], ["result.json"])


@pytest.mark.parametrize(("mood", "why"), [("500", "500"), ("413", "413"), ("hangs up", "onnection")])
def test_a_server_that_refuses_is_named_and_the_next_start_sends_the_rest(
    proxy: Proxy, tmp_path: Path, mood: str, why: str
) -> None:
    sweep = Identity(f"refuses {mood}", "0123456789ab")
    proxy.mood = "well"
    first = Tracker(address(proxy), sweep, tmp_path)
    tell(first, "t", tmp_path / "files")
    assert first.flush()
    proxy.mood = mood
    tell(first, "u", tmp_path / "files")
    assert not first.flush()
    first.close()
    (problem,) = first.problems
    assert why in problem
    assert "secret" not in problem
    proxy.mood = "well"
    again = Tracker(address(proxy), sweep, tmp_path)
    again.close()
    assert (told(again, "t"), told(again, "u"), again.problems) == (ALL, ALL, [])


def test_one_that_is_slow_gets_everything_and_what_waits_at_the_end_is_said(proxy: Proxy, tmp_path: Path) -> None:
    proxy.mood = "well"
    slow = Tracker(address(proxy), Identity("slow", "0123456789ab"), tmp_path)
    proxy.mood = "slow"
    tell(slow, "t", tmp_path / "files")
    assert not slow.flush(timeout_seconds=1.0)
    slow.close(timeout_seconds=1.0)
    assert slow.problems == ["It answers too slowly: 4 events wait."]
    slow._thread.join()  # of a process that lives on; one that ends sends the rest at its next start
    proxy.mood = "well"
    assert told(slow, "t") == ALL


def test_one_that_is_slower_than_anybody_waits_is_named_at_the_plan(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(time, "monotonic", iter([0.0, 0.0, 9.0, 9.0]).__next__)
    proxy.mood = "slow"
    with pytest.raises(InputError, match="does not answer"):
        server.check_answer(address(proxy))
