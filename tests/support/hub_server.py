"""A hub of our own, on this machine: the four requests that fetching a data set takes, the six of uploading a model."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest


@dataclass
class Repository:
    """Files by their path, of each commit; branches and tags by their name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False  # its files are for those with a token

    def commit(self, files: dict[str, bytes], revision: str = "main") -> str:
        """A new commit, which `revision` is from now on."""
        made = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[made], self.revisions[revision] = files, made
        return made


@dataclass
class Hub:
    """Repositories by their name, what was asked for, and how badly it is answered."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    tokens: set[str | None] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256
    writers: set[str] = field(default_factory=set)  # the tokens that may write
    breaks: int = 0  # that many recordings end halfway
    failing: bool = False

    def asked(self, method: str = "GET") -> list[str]:
        """The ends of the addresses of all requests."""
        return [path.split("/")[-1] for known, path, _ in self.requests if known == method]


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, errors in its headers."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        """A description, a listing or a file."""
        path = unquote(self.path.split("?")[0])
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.hub.tokens.add(self.headers.get("Authorization"))
        words = path.removeprefix("/api").strip("/").split("/")
        repository = self.hub.repositories.get("/".join(words[1:3]))
        if self.hub.failing:
            self._answer(200, b"<html>please log in to this hotel's network</html>")
        elif repository is None or words[0] != "datasets":
            self._answer(401, b"", error="RepoNotFound")
        elif path.startswith("/api"):
            self._describe(repository, words[3:])
        else:
            self._file(repository, words[4], "/".join(words[5:]))

    def do_HEAD(self) -> None:
        """The same without its body."""
        self.do_GET()

    def do_POST(self) -> None:
        """What leads to a commit, and the commit."""
        body = self._body()
        path = unquote(self.path.split("?")[0])
        self.hub.requests.append((self.command, path, None))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        name = "/".join(path.removesuffix(".git/info/lfs/objects/batch").removeprefix("/api/models").split("/")[1:3])
        if path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif token not in self.hub.writers:
            self._answer(403 if token == "reader" else 401, b"")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, Repository())
            self._say({"url": f"{self.hub.address}/{name}"})
        elif "/preupload/" in path:
            self._say({"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._say({"transfer": "basic", "objects": [self._place(wanted) for wanted in json.loads(body)["objects"]]})
        else:
            self._commit(self.hub.repositories[name], [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        """A large file."""
        body = self._body()
        self.hub.stored[self.path.split("/")[-1]] = body
        self._say({})

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while length := int(self.rfile.readline(), 16):  # in chunks
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _mode(self, path: str) -> dict[str, Any]:
        return {
            "path": path,
            "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.address}/large/{wanted['oid']}"}}}

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits.get(repository.revisions.get("main", ""), {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                assert hashlib.sha256(self.hub.stored[value["oid"]]).hexdigest() == value["oid"]
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = repository.commit(files)
        self._say({"commitOid": commit, "commitUrl": f"{self.hub.address}/org/name/commit/{commit}"})

    def _say(self, content: dict[str, Any]) -> None:
        self._answer(200, json.dumps(content).encode())

    def _describe(self, repository: Repository, words: list[str]) -> None:
        name = "/".join(words[1:]) or "main"
        commit = repository.revisions.get(name, name)
        files = repository.commits.get(commit)
        if files is None:
            self._answer(404, b"", error="RevisionNotFound")
            return
        about: Any = {"id": "org/name", "sha": commit}
        if words[:1] == ["tree"]:
            about = [{"type": "file", "path": path, "size": len(body), "oid": "0"} for path, body in files.items()]
        self._answer(200, json.dumps(about).encode())

    def _file(self, repository: Repository, commit: str, path: str) -> None:
        if repository.gated and not self.headers.get("Authorization"):
            self._answer(401, b"", error="GatedRepo")
            return
        body, wanted = repository.commits[commit][path], self.headers.get("Range")
        first = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
        about = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        self._answer(206 if first else 200, body[first:], about)

    def _answer(self, code: int, body: bytes, about: dict[str, str] | None = None, error: str = "") -> None:
        self.send_response(code)
        for name, value in {**(about or {}), "Content-Length": str(len(body)), "X-Error-Code": error}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if about and self.hub.breaks and len(body) > 1000:
            self.hub.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *words: object) -> None:
        """Quiet."""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that knows no repository yet, where this process looks for one."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub = Hub(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", Handler.hub.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield Handler.hub
    http.shutdown()
    http.server_close()
