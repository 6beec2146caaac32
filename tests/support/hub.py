"""A hub of our own on this machine: model repositories from folders, in the protocol of huggingface_hub, and what was
asked of it.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789" * 4


@dataclass
class Hub:
    """`repositories`: a folder by "organisation/name". `fetched`: the files whose content was sent, in order."""

    repositories: Mapping[str, Path]
    fetched: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        for name, folder in self.repositories.items():
            if path == f"/api/models/{name}/revision/main":
                return 200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()
            if path == f"/api/models/{name}/tree/{COMMIT}":
                return 200, {}, json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode()
            if path.startswith(f"/{name}/resolve/{COMMIT}/"):
                file = folder / path.rsplit("/", 1)[1]
                if method == "GET":
                    self.fetched.append(file.name)
                return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(file)}"'}, file.read_bytes()
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)}


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path, repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """huggingface_hub asks this hub, and keeps what it gets in `cache`."""
    hub = Hub(repositories)

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(with_body=True)

        def do_HEAD(self) -> None:
            self._send(with_body=False)

        def log_message(self, *words: object) -> None:
            pass

        def _send(self, *, with_body: bool) -> None:
            status, headers, body = hub.answer(self.command, self.path.split("?")[0])
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # which reads a file of the user's
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
