"""Whatever is handed in is accepted or refused in words, never met with another error: tables of recordings, flags,
cluster files, requests to a served model, and the files that a sweep left behind.

`AUDIOCONFIT_FUZZ=10000` tries that many inputs of each kind; sweeps/README.md has what they found. Every input is a
mutation of one that is accepted, or made of the words that the reader knows, so that it comes past the first check.
"""

import base64
import contextlib
import functools
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import makers
import mlflow
import pytest
import soundfile
import yaml
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server
from tiny_classifiers import made

from audioconfit import files
from audioconfit.corpora import own
from audioconfit.errors import InputError
from audioconfit.handover import serving
from sweeps import identity, preflight
from sweeps.cluster import cluster_file
from sweeps.faults import Halted
from sweeps.outcome import registry
from sweeps.request import flags, resuming
from sweeps.request.plan import Plan
from sweeps.tracking.journal import End, Journal, Metrics, Outcome, Start, encode
from sweeps.trial.assignment import Assignment

EXAMPLES = int(os.environ.get("AUDIOCONFIT_FUZZ", "0"))
CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)
ROOT = Path(__file__).parents[2]


def fuzzed(usually: int, **inputs: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test for that many inputs, the same ones each time, or for AUDIOCONFIT_FUZZ of them."""
    tries = settings(
        max_examples=EXAMPLES or usually, derandomize=True, deadline=None, database=None, suppress_health_check=CHECKS
    )
    return lambda test: pytest.mark.timeout(600 + EXAMPLES)(tries(given(**inputs)(test)))


@contextlib.contextmanager
def accepted_or_refused() -> Iterator[None]:
    """Any other error than a refusal with words is the test's."""
    try:
        yield
    except (InputError, Halted) as refusal:
        if not str(refusal).strip():
            pytest.fail("a refusal without a word")


JUNK = st.one_of(
    st.sampled_from(
        ["", " ", "nan", "inf", "-1", "1e999", "9" * 5000, "true", "null", "[", "{}", "\x00", "\ud800", "é"]
    ),
    st.sampled_from(
        ["0", "1", "16,32", "0.5", "1..2", "2..1", "1e-5..1e-3:log", "a|b", "..", "#0-1", "=", ":", "'", "/"]
    ),
    st.text(max_size=12),
    st.integers(-3, 10**20).map(str),
    st.floats().map(str),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | JUNK,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JUNK, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which a few stretches are cut, doubled or others."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 40)))
        content[begin:end] = draw(st.binary(max_size=12) | st.just(bytes(content[begin:end]) * 2) | st.just(b""))
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all inputs of all kinds."""
    return tmp_path_factory.mktemp("fuzz")


# --- tables of recordings -------------------------------------------------------------------------------------------

COLUMNS = st.sampled_from(
    ["path", "file_name", "label", "Label", "labels", "split", "group", "speaker", "start", "end", "", "path "]
)
CELLS = st.sampled_from(["a.wav", "./a.wav", "b.wav", "crow", "crow|wren", "train", "valid", "0", "0.5", ""]) | JUNK
ROWS = st.lists(st.lists(CELLS, max_size=5), max_size=5)


@fuzzed(
    60, suffix=st.sampled_from([".csv", ".tsv"]), names=st.lists(COLUMNS, max_size=5), rows=ROWS, quoted=st.booleans()
)
def test_a_table(place: Path, suffix: str, names: list[str], rows: list[list[str]], quoted: bool) -> None:
    between = "," if suffix == ".csv" else "\t"
    shown = [[f'"{cell}"' if quoted else cell for cell in row] for row in [names, *rows]]
    _parsed(place, suffix, "\n".join(map(between.join, shown)).encode(errors="surrogatepass"))


LINE = st.dictionaries(COLUMNS, CELLS | VALUES, max_size=5).map(json.dumps) | JUNK


@fuzzed(60, lines=st.lists(LINE, max_size=5), nested=st.sampled_from([0, 0, 0, 100_000]))
def test_json_lines(place: Path, lines: list[str], nested: int) -> None:
    _parsed(place, ".jsonl", ("\n".join(lines) + "[" * nested).encode(errors="surrogatepass"))


@functools.cache
def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a.wav"] * 9, "label": list("abcabcabc")}), out := io.BytesIO())
    return out.getvalue()


@fuzzed(40, content=st.deferred(lambda: mutated(_parquet())))
def test_a_parquet_table(place: Path, content: bytes) -> None:
    _parsed(place, ".parquet", content)


def _parsed(place: Path, suffix: str, content: bytes) -> None:
    (place / "a.wav").touch()
    (place / f"table{suffix}").write_bytes(content)
    with accepted_or_refused():
        own.parse(place / f"table{suffix}")


# --- flags ----------------------------------------------------------------------------------------------------------

NAMES = sorted(
    (field.metadata[-1].name or name).replace("_", "-")
    for name, field in Plan.model_fields.items()
    if not isinstance(field.default, bool) and hasattr(field.metadata[-1], "metavar")
)
SETTINGS = st.sampled_from(
    ["temperature", "mining", "layers", "augment", "freeze", "warmup", "views", "precision", "lr", "probe_lr", "x", ""]
)
SET = st.tuples(SETTINGS, JUNK | VALUES.map(json.dumps)).map("=".join) | JUNK
FLAG = st.one_of(
    st.tuples(st.sampled_from(NAMES).map("--{}".format), JUNK),
    st.tuples(st.just("--set"), SET),
    st.tuples(st.just("--search"), SET),
    st.tuples(
        st.just("--datasets"), st.lists(st.sampled_from(["all", "emodb", "a/b@c", ".", "/"]) | JUNK).map(",".join)
    ),
)


@fuzzed(100, words=st.lists(FLAG, max_size=4))
def test_flags(words: list[tuple[str, str]]) -> None:
    said = [word for flag, value in words for word in (f"{flag}={value}",)]
    with contextlib.redirect_stderr(io.StringIO()) as errors, accepted_or_refused():
        try:
            flags.parse(["--datasets", "emodb", *said], {})
        except SystemExit:  # argparse's own refusal
            assert "error: " in errors.getvalue()


@fuzzed(
    60,
    words=st.dictionaries(st.sampled_from(NAMES).map(lambda name: name.replace("-", "_")) | JUNK, VALUES, max_size=3),
)
def test_flags_as_python_has_them(words: dict[str, Any]) -> None:
    with accepted_or_refused():
        flags.of({"datasets": "emodb"} | words, {})


# --- cluster files --------------------------------------------------------------------------------------------------


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _places(inner, (*place, key))


CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
OWN_MACHINES = yaml.safe_load((ROOT / "sweeps" / "cluster" / "own-machines.yaml").read_text())


@st.composite
def clusters(draw: st.DrawFn) -> str:
    """A cluster file with one to three places that hold something else, or are gone."""
    config = json.loads(json.dumps(draw(st.sampled_from([CLUSTER, OWN_MACHINES]))))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([place for place in _places(config) if place]))
        inside = functools.reduce(lambda value, key: value[key], way, config)
        if draw(st.booleans()):
            inside[last] = draw(VALUES)
        else:
            del inside[last]
    return yaml.safe_dump(config, allow_unicode=False)


TEXTS = mutated((ROOT / "cluster.yaml").read_bytes())


@fuzzed(15, content=clusters().map(str.encode) | TEXTS)
def test_a_cluster_file(place: Path, content: bytes) -> None:
    path = place / "cluster.yaml"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, accepted_or_refused():
        patch.setattr(cluster_file.subprocess, "run", _asked_once)  # most commands are those of the last file
        list(preflight._of_file(path))


@functools.cache
def _said(words: tuple[str, ...], command: str, run: Any = subprocess.run) -> Any:
    return run(list(words), input=command, capture_output=True, text=True)


def _asked_once(words: list[str], *, input: str, **_: Any) -> Any:
    return _said(tuple(words), input)


# --- requests to a served model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """`audioconfit serve` of a tiny model, in a thread."""
    with serving.listening(made(), port=0, limits=serving.Limits(megabytes=0.2, seconds=2)) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield "127.0.0.1", int(listening.server_address[1])
        listening.shutdown()
        thread.join()


@functools.cache
def sounds() -> tuple[bytes, ...]:
    """A recording in four formats."""
    samples = [0.3 * ((number % 50) / 50 - 0.5) for number in range(4000)]
    found = []
    for form in ("WAV", "FLAC", "OGG", "MP3"):
        soundfile.write(out := io.BytesIO(), samples, 16_000, format=form)
        found.append(out.getvalue())
    return tuple(found)


SOUND = st.deferred(lambda: st.sampled_from(sounds()).flatmap(mutated))
QUERY = st.lists(st.tuples(st.sampled_from(["top_k", "segments", "name", "x"]), JUNK).map("=".join), max_size=3).map(
    "&".join
)
TOP = st.sampled_from(["POST /predict?{} HTTP/1.1", "GET /{} HTTP/1.1", "PUT /predict?{} HTTP/1.1", "POST {} HTTP/9"])
LENGTH = st.sampled_from(["{}", "{}", "{}", "-1", "0", "9" * 30, "x", "²", "1e3"])


@fuzzed(60, top=TOP, query=QUERY, body=SOUND, length=LENGTH, further=JUNK)
def test_a_request_to_audioconfit_serve(
    server: tuple[str, int], capsys: Any, top: str, query: str, body: bytes, length: str, further: str
) -> None:
    lines = (top.format(query), f"Content-Length: {length.format(len(body))}", f"X: {further}", "Connection: close")
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    with socket.create_connection(server, timeout=60) as client:
        with contextlib.suppress(OSError):  # refused before all of it was read
            client.sendall(head.encode(errors="surrogatepass") + body)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                answer += part
    first, _, rest = answer.partition(b"\r\n")
    said = rest.partition(b"\r\n\r\n")[2]
    if first.startswith(b"HTTP/1.1 "):
        assert int(first.split()[1]) in {200, 400, 404, 411, 413, 414, 431, 501, 505}, answer[:500]
    else:  # to a request line of no version that is known there is an answer without a head, as in HTTP/0.9
        said = answer
    if b"text/html" not in rest:
        assert all(isinstance(json.loads(line), dict) for line in said.splitlines())
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """MLflow's server of a champion, without a port."""
    folder, path = tmp_path_factory.mktemp("champion"), list(sys.path)
    made().save(folder / "classifier")
    mlflow.pyfunc.save_model(folder / "model", **registry.contents(folder / "classifier"))
    yield TestClient(
        scoring_server.init(mlflow.pyfunc.load_model(str(folder / "model"))), raise_server_exceptions=False
    )
    sys.path[:] = path


CELL = SOUND.map(lambda sound: base64.b64encode(sound).decode()) | VALUES
COLUMN = st.sampled_from(["audio", "audio", "audio", "sound", ""])
ROW = st.dictionaries(COLUMN, CELL, max_size=2)
SPLIT = st.fixed_dictionaries({"columns": st.lists(COLUMN, max_size=2), "data": st.lists(st.lists(CELL, max_size=2))})
FORMS = st.sampled_from(["dataframe_records", "inputs", "instances", "dataframe_split", "x"])
BODY = st.dictionaries(FORMS, st.lists(ROW, max_size=3) | SPLIT | VALUES, max_size=2).map(json.dumps)


@fuzzed(30, body=BODY)
def test_a_request_to_a_champion(champion: TestClient, body: str) -> None:
    answer = champion.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400), (answer.status_code, answer.text[-2000:])
    if answer.status_code == 200:
        assert all(row["label"] is None or row["error"] is None for row in answer.json()["predictions"])


# --- what a sweep left ----------------------------------------------------------------------------------------------

EVENTS = b"".join(
    encode(event)
    for event in (
        Start("k", 1, "a-cell", "run", {"lr": "1"}, {"kind": "trial"}),
        Metrics("k", 2, 1, {"loss": 1.0}),
        End("k", 3, Outcome.COMPLETE),
    )
)


def left(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file of that content, mutated, or other JSON, or JSON too deep for a parser."""
    others = VALUES.map(lambda value: json.dumps(value).encode())
    return mutated(whole) | others | st.sampled_from([b"", b"\xff\xfe", b"[" * 100_000, b"null", b"9" * 5000])


RESULT = json.dumps({"metrics": {"valid_score": 0.5}, "classes": ["a"]}).encode()


@fuzzed(40, result=left(RESULT), sums=left(b'{"result.json": [53, 1234]}'))
def test_a_result_and_its_checksums(place: Path, result: bytes, sums: bytes) -> None:
    one = Assignment(makers.recipe(), Path("nowhere"), place, "key")
    one.folder.mkdir(parents=True, exist_ok=True)
    (one.folder / "result.json").write_bytes(result)
    (one.folder / files.SUMS).write_bytes(sums)
    assert one.is_done in (True, False)
    for read in (one.read_result, one.read_metrics):
        with accepted_or_refused():
            read()


KNOWN = json.dumps({"a-cell": {"epochs": 4}}).encode()
CONDUCT = json.dumps({"--workers-per-trial": [1, 2]}).encode()


@fuzzed(40, record=left(KNOWN), conduct=left(CONDUCT), who=left(b'{"id": "0123456789ab", "early": false}'))
def test_the_records_of_a_sweep(place: Path, record: bytes, conduct: bytes, who: bytes) -> None:
    for name, content in ((resuming.RECORD, record), (resuming.CONDUCT, conduct), (identity.RECORD, who)):
        (place / name).write_bytes(content)
    assert isinstance(identity.known(place), str | None)
    for read in (
        lambda: identity.of(place, begun=True),
        lambda: resuming.reconcile(place, [makers.cell()]),
        lambda: resuming.note_conduct(place, {"--workers-per-trial": 1}),
    ):
        with accepted_or_refused():
            read()


@fuzzed(40, events=left(EVENTS), mark=left(b"3"))
def test_a_journal_and_its_mark(place: Path, events: bytes, mark: bytes) -> None:
    (place / "events.jsonl").write_bytes(events)
    (place / "events.applied").write_bytes(mark)
    journal = Journal(place)
    journal.close()
    assert 0 <= journal.applied <= journal.written == events.count(b"\n")
    assert all(isinstance(event.key, str) for _, event in journal.unapplied)
