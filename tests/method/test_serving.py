"""A model over HTTP says what `audioconfit predict --json` says, within its limits, and a browser shows it."""

import io
import json
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import soundfile
from tiny_classifiers import CLASSES, made, recording

from audioconfit import __main__
from audioconfit.classifier import Classifier
from audioconfit.handover import serving
from audioconfit.handover.serving import Limits


@contextmanager
def served(model: Classifier, **limits: float) -> Iterator[str]:
    """The address of a server of this model."""
    with serving.listening(model, port=0, limits=Limits(**limits)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def asked(address: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and text of the answer; nothing but JSON, and one line of it, in what refuses."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        text = refused.read().decode()
        assert len(text.splitlines()) == 1
        assert "Traceback" not in text
        assert ".py" not in text
        return refused.code, json.loads(text)["error"]


def predicted(model: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What the command says."""
    capsys.readouterr()
    assert __main__.main(["predict", str(model), *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def alike(some: dict[str, Any], others: dict[str, Any]) -> bool:
    """The same answer; probabilities differ with the batch by what float32 rounds."""
    assert some["probabilities"] == pytest.approx(others["probabilities"], abs=1e-5)
    return {**some, "probabilities": 0} == {**others, "probabilities": 0}


@pytest.mark.parametrize("several", [False, True], ids=["one label", "label sets"])
def test_an_answer_is_what_predict_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], several: bool) -> None:
    model, path = made(several=several), recording(tmp_path, 1.0)
    model.save(tmp_path / "model")
    (whole,) = predicted(tmp_path / "model", str(path), "--top-k", "3", capsys=capsys)
    stretches = predicted(tmp_path / "model", str(path), "--segments", "0.5", capsys=capsys)
    with served(model) as address:
        status, text = asked(f"{address}/predict?name={path}", path.read_bytes())
        assert status == 200
        assert alike(json.loads(text), whole)
        status, text = asked(f"{address}/predict?name={path}&top_k=1&segments=0.5", path.read_bytes())
        assert len(text.splitlines()) == len(stretches) == 2
        assert all(alike(json.loads(line), row) for line, row in zip(text.splitlines(), stretches, strict=True))
        about = json.loads(asked(f"{address}/model")[1])
    assert (about["classes"], about["several"]) == (list(CLASSES), several)


def flac(seconds: float) -> bytes:
    """Few bytes that decode to many: a tone of one sample in a thousand."""
    samples = np.zeros(round(16_000 * seconds), np.int16)
    samples[::1000] = 1000
    soundfile.write(out := io.BytesIO(), samples, 16_000, format="FLAC")
    return out.getvalue()


def test_what_is_too_large_too_long_or_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    path = recording(tmp_path, 1.0)
    with served(made(), megabytes=0.5, seconds=5) as address:
        for body, status, why in (
            (b"x" * 5_000_000, 413, "The recording has 5.0 MB; the limit is 0.5 MB."),
            (flac(60), 400, "too long: more than 5 s"),
            (b"dear sir", 400, "no decoder knows its format"),
            (b"", 400, "empty"),
        ):
            found = asked(f"{address}/predict", body)
            assert (found[0], why in found[1]) == (status, True), found
        for query, why in (
            ("top_k=none", "top_k='none'"),
            ("segments=-1", "a number above 0"),
            ("segments=nan", "above 0"),
        ):
            assert why in asked(f"{address}/predict?{query}", path.read_bytes())[1]
        assert "Segments of 0.001 s" in asked(f"{address}/predict?segments=0.001", path.read_bytes())[1]
        assert asked(f"{address}/../etc/passwd")[0] == asked(f"{address}/elsewhere", b"x")[0] == 404
        assert asked(f"{address}/predict", path.read_bytes())[0] == 200  # and it goes on


def test_a_model_that_fails_says_no_more_than_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made()
    for weights in model.encoder.parameters():
        weights.data.fill_(float("nan"))
    with served(model) as address:
        assert asked(f"{address}/predict", recording(tmp_path).read_bytes()) == (
            500,
            "The model failed; the server's log says why.",
        )
    assert "ArithmeticError" in capsys.readouterr().err


def test_uploads_beyond_the_memory_for_them_come_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HELD_UPLOADS", 1)
    desk = serving.Desk(made(), Limits(megabytes=1))
    try:
        with desk.room_for(700_000), pytest.raises(serving.Refused, match="try again"), desk.room_for(700_000):
            pass
        with desk.room_for(700_000):
            pass
    finally:
        desk.close()


def test_one_that_breaks_the_batch_leaves_the_others_their_answers(tmp_path: Path) -> None:
    model, path = made(), recording(tmp_path)
    desk = serving.Desk(model, Limits())
    real, batches = model.each, []

    def each(sounds: list[bytes], **words: Any) -> Any:
        batches.append(len(sounds))
        if b"poison" in sounds:
            raise ArithmeticError("no finite numbers")
        return real(sounds, **words)

    object.__setattr__(model, "each", each)
    waiting = [serving._Waiting(sound, None) for sound in (path.read_bytes(), b"poison", path.read_bytes())]
    desk._name(waiting)
    assert batches == [3, 1, 1, 1]
    assert waiting[0].said.result() == waiting[2].said.result() != []
    with pytest.raises(ArithmeticError):
        waiting[1].said.result()
    desk.close()


# --- the command ----------------------------------------------------------------------------------------------------


@contextmanager
def running(model: Path, *words: str) -> Iterator[tuple[str, int]]:
    """`audioconfit serve` in a process of its own, started as by a shell behind itself: its address and process id."""
    serve = [sys.executable, "-m", "audioconfit", "serve", str(model), "--port", "0", *words]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 120)[0]
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found, process.communicate()
            yield found.group(), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


def peak_megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def test_sixteen_clients_at_once_have_their_own_answers_within_a_bound_of_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made()
    model.save(tmp_path / "model")
    paths = [recording(tmp_path, 1 + number / 4, seed=number, name=f"{number}.wav") for number in range(16)]
    expected = predicted(tmp_path / "model", *map(str, paths), "--top-k", "3", capsys=capsys)
    with running(tmp_path / "model") as (address, process), ThreadPoolExecutor(16) as clients:
        asked(f"{address}/predict", paths[0].read_bytes())
        before = peak_megabytes(process)
        answers = list(clients.map(lambda path: asked(f"{address}/predict?name={path}", path.read_bytes()), paths * 2))
        grown = peak_megabytes(process) - before
    for (status, text), row in zip(answers, expected * 2, strict=True):
        assert status == 200
        assert alike(json.loads(text), row)
    with capsys.disabled():
        print(f"\n16 clients, 32 recordings of 1 to 5 s: {grown:.0f} MB beyond the {before:.0f} MB of one client")
    assert grown < 400


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--port", "70000"], "127.0.0.1:70000 cannot be listened on"),
        (["--host", "no.such.host.invalid"], "cannot be listened on"),
        (["--max-mb", "0"], "--max-mb 0: choose more than 0."),
    ],
)
def test_serve_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    made().save(tmp_path / "model")
    assert __main__.main(["serve", str(tmp_path / "model"), *words]) == 2
    said = capsys.readouterr()
    assert why in said.err
    assert len(said.err.splitlines()) == 1


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing() -> None:
    html = serving.PAGE.read_text()
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(|@import|https?://", html) == ["data:,"]
    assert "innerHTML" not in html  # class names are text


@pytest.mark.slow
@pytest.mark.parametrize("by", ["file", "microphone"])
def test_a_browser_shows_what_the_model_says(tmp_path: Path, by: str) -> None:
    model, path = made(), recording(tmp_path, 2.0)
    spoken = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    fake = (*spoken, f"--use-file-for-fake-audio-capture={path}")
    with served(model) as address, browser.browsing(tmp_path / "profile", *fake) as page:
        page.open(address)
        page.wait("document.readyState == 'complete' && document.getElementById('about').innerText")
        if by == "file":
            page.choose("#file", path)
        else:
            page.value("document.getElementById('record').click()")
            page.wait("document.getElementById('record').innerText == 'Stop'")
            page.value("setTimeout(() => document.getElementById('record').click(), 1500)")
        page.wait("document.querySelectorAll('#bars tr').length == 3")
        said = page.value("document.getElementById('said').innerText")
        rows = page.value("[...document.querySelectorAll('#bars tr')].map(row => row.innerText.split('\\t'))")
    named = {row[0]: float(row[-1]) for row in rows}
    assert sum(named.values()) == pytest.approx(1, abs=0.002)
    assert list(named) == sorted(named, key=lambda label: -named[label])
    assert said.startswith(f"{next(iter(named))} (")
    if by == "file":
        (expected,) = model.predict(path)
        assert named == pytest.approx(expected.probabilities, abs=6e-4)
        assert said == f"{expected.labels[0]} (2.00 s)"
