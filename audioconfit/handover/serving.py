"""A model over HTTP: a page for people, `POST /predict` for programs. Python's own server: MLflow's registry has the
one for many machines, and a web framework would be a dependency for three addresses.

Uploads wait in memory, at most HELD_UPLOADS of the largest together; one thread decodes and embeds what waits, as one
batch. Recordings stay in memory and are forgotten with their answer. A decoder that crashes takes the server along.
"""

import json
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from audioconfit.audio import SAMPLE_RATE
from audioconfit.classifier import GROUP_RECORDINGS, Classifier, Prediction
from audioconfit.errors import InputError
from audioconfit.handover import predicting

PAGE = Path(__file__).with_name("page.html")
HELD_UPLOADS = 8  # of the largest allowed; who comes beyond that is told to come again
LONGEST_NUMBER = 15  # digits of a Content-Length
SILENCE_SECONDS = 30  # without a byte from a client
LINGERING_SECONDS = 3  # that a refused upload is still read and thrown away: clients read no answer while they send
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'"
)


class Refused(Exception):  # noqa: N818
    """A request that is not answered with a prediction: its status, and why in one line."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request may bring."""

    megabytes: float = 25.0
    seconds: float = 600.0

    @property
    def bytes(self) -> int:
        """Of an upload."""
        return round(self.megabytes * 1e6)


@dataclass(frozen=True)
class _Waiting:
    """An upload that waits for its predictions."""

    sound: bytes
    segment_seconds: float | None
    said: "Future[list[Prediction]]" = field(default_factory=Future)


class Desk:
    """Takes uploads from many threads and lets one of its own name them: what waits is one batch."""

    def __init__(self, model: Classifier, limits: Limits, *, device: str = "cpu") -> None:
        self.model, self.limits, self.device = model, limits, device
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock, self._held = threading.Lock(), 0
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)
        self._thread.start()

    @contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Memory for an upload of `size` bytes. Refused: it is too large, or too many others are there."""
        if size > self.limits.bytes:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The recording has {size / 1e6:.1f} MB; the limit is {self.limits.megabytes:g} MB.",
            )
        with self._lock:
            if self._held + size > HELD_UPLOADS * self.limits.bytes:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many recordings are waiting; try again in a moment.")
            self._held += size
        try:
            yield
        finally:
            with self._lock:
                self._held -= size

    def predictions(self, sound: bytes, segment_seconds: float | None) -> list[Prediction]:
        """One, or one per stretch; waits for its turn. InputError: segments that the model cannot have."""
        waiting = _Waiting(sound, segment_seconds)
        self._queue.put(waiting)
        return waiting.said.result()

    def close(self) -> None:
        """Ends its thread, after the batch that it is at."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < GROUP_RECORDINGS and not self._queue.empty():
                further = self._queue.get()
                if further is None:
                    self._queue.put(None)
                    break
                batch.append(further)
            for segment_seconds in {waiting.segment_seconds for waiting in batch}:
                self._name([waiting for waiting in batch if waiting.segment_seconds == segment_seconds])

    def _name(self, batch: list[_Waiting]) -> None:
        said: list[list[Prediction]] = [[] for _ in batch]
        try:
            with torch.inference_mode():
                for prediction in self.model.each(
                    [waiting.sound for waiting in batch],
                    segment_seconds=batch[0].segment_seconds,
                    longest_seconds=self.limits.seconds,
                    device=self.device,
                ):
                    said[int(prediction.recording)].append(prediction)
        except Exception as error:
            if len(batch) == 1:
                batch[0].said.set_exception(error)
            else:  # one of them is the reason, and the others are named all the same
                for waiting in batch:
                    self._name([waiting])
            return
        for waiting, predictions in zip(batch, said, strict=True):
            waiting.said.set_result(predictions)


class Handler(BaseHTTPRequestHandler):
    """GET / the page, GET /model what it knows, POST /predict?name=&top_k=&segments= a recording's bytes."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "audioconfit", ""
    timeout = SILENCE_SECONDS
    desk: Desk

    def do_GET(self) -> None:
        """The page, and what it has to know of the model."""
        path = urlsplit(self.path).path
        if path == "/":
            self._send(HTTPStatus.OK, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "/model":
            self._say(HTTPStatus.OK, self._about())
        else:
            self._say(HTTPStatus.NOT_FOUND, {"error": "There is / and /model, and /predict for POST."})

    def do_POST(self) -> None:
        """What `audioconfit predict --json` says of the recording in the body: a JSON object, or a line per stretch."""
        try:
            status, rows = self._predicted()
        except Refused as refused:
            status, rows = refused.status, [{"error": str(refused)}]
            self.close_connection = True
        except InputError as error:
            status, rows = HTTPStatus.BAD_REQUEST, [{"error": str(error)}]
        except OSError:
            raise
        except Exception:
            traceback.print_exc()  # for whoever runs the server, not for its callers
            status, rows = HTTPStatus.INTERNAL_SERVER_ERROR, [{"error": "The model failed; the server's log says why."}]
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        self._send(status, body, "application/json" if len(rows) == 1 else "application/x-ndjson")
        if self.close_connection:
            self._linger()

    def _predicted(self) -> tuple[HTTPStatus, list[dict[str, Any]]]:
        address = urlsplit(self.path)
        if address.path != "/predict":
            raise Refused(HTTPStatus.NOT_FOUND, "POST a recording's bytes to /predict.")
        asked = {name: values[-1] for name, values in parse_qs(address.query).items()}
        top_k, segment_seconds = _number(asked, "top_k", int), _number(asked, "segments", float)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > LONGEST_NUMBER:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Send the recording's bytes with their Content-Length.")
        with self.desk.room_for(int(length)):
            sound = self.rfile.read(int(length))
            if len(sound) < int(length):
                raise Refused(HTTPStatus.BAD_REQUEST, f"{len(sound)} bytes came of {length}.")
            found = self.desk.predictions(sound, segment_seconds)
        classes = len(self.desk.model.classes)
        named = [replace(prediction, recording=asked.get("name", "")) for prediction in found]
        failed = any(prediction.error is not None for prediction in named)
        rows = [predicting.answer(prediction, top_k or classes) for prediction in named]
        return HTTPStatus.BAD_REQUEST if failed else HTTPStatus.OK, rows

    def _about(self) -> dict[str, Any]:
        model, limits = self.desk.model, self.desk.limits
        thresholds = model.description()["thresholds"]
        return {
            "classes": model.classes,
            "several": thresholds is not None,
            "sample_rate": SAMPLE_RATE,
            "longest_seconds": limits.seconds,
            "largest_bytes": limits.bytes,
        }

    def _say(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content, ensure_ascii=False).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **({"Connection": "close"} if self.close_connection else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _linger(self) -> None:
        self.wfile.flush()
        ends = time.monotonic() + LINGERING_SECONDS
        self.connection.settimeout(LINGERING_SECONDS)
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < ends and self.rfile.read1(1 << 16):
                pass
        except OSError:  # it has gone
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in our form: other methods, broken request lines."""
        self.close_connection = True
        self.command = self.command or "GET"
        body = json.dumps({"error": f"{HTTPStatus(code).phrase}."}).encode() + b"\n"
        self._send(code, body, "application/json")

    def log_message(self, format: str, *words: object) -> None:
        """Quiet: who asked, and with what name, is nobody's business."""


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def listening(
    model: Classifier, *, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None, device: str = "cpu"
) -> Iterator[Server]:
    """A server that has its address and waits for `serve_forever`; closed in the end.

    InputError: the address cannot be had.
    """
    limits = limits or Limits()
    try:
        server = Server((host, port), Handler, bind_and_activate=True)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port.") from None
    desk = Desk(model, limits, device=device)
    server.RequestHandlerClass = type("Handler", (Handler,), {"desk": desk})
    try:
        yield server
    finally:
        server.server_close()
        desk.close()


def until_told(server: Server) -> None:
    """Serves until Ctrl-C or SIGTERM, also where a shell that started it behind itself had told it to ignore the
    first.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(asked: dict[str, str], name: str, kind: type[int] | type[float]) -> Any:
    """What a request says under `name`; None where it says nothing."""
    if name not in asked:
        return None
    try:
        value = kind(asked[name])
    except ValueError:
        value = kind(0)
    if not 0 < value < float("inf"):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}={asked[name][:40]!r}: choose a number above 0.")
    return value
