"""From a corpus to a model and wherever it goes: the same probabilities in Python, transformers, ONNX, command, HTTP.

The corpus is generated in EmoDB's layout; with AUDIOCONFIT_DATA at a folder that holds EmoDB it is the real one too.
"""

import json
import os
import threading
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import transformers

import audioconfit
from audioconfit import __main__, audio, corpora, synthesis
from audioconfit.corpora import Corpus
from audioconfit.handover import serving

pytestmark = pytest.mark.usefixtures("unchecked")

REAL = Path(os.environ.get("AUDIOCONFIT_DATA", "data"))
CLIPS = 50  # at most


def cut(corpus: Corpus, folder: Path, seconds: float) -> list[Path]:
    """The first seconds of some clips, as recordings that everybody reads alike."""
    folder.mkdir()
    paths = []
    for number, clip in enumerate(corpus.clips[:: max(1, len(corpus.clips) // CLIPS)][:CLIPS]):
        samples = audio.to_int16(clip.path)[: round(16_000 * seconds)]
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], samples, 16_000)
    return paths


def furthest(some: dict[str, float], others: dict[str, float]) -> float:
    assert some.keys() == others.keys()
    return max(abs(some[label] - others[label]) for label in some)


def piped(model: Path, paths: list[Path]) -> list[dict[str, float]]:
    classify = transformers.pipeline("audio-classification", model=str(model), device="cpu")
    found = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        rows = classify({"raw": samples, "sampling_rate": rate}, top_k=None)
        found.append({row["label"]: row["score"] for row in rows})
    return found


def in_onnx(folder: Path, paths: list[Path]) -> list[dict[str, float]]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    found = []
    for path in paths:
        samples = soundfile.read(path, dtype="float32")[0]
        given = {"waveforms": samples[None], "lengths": np.array([len(samples)])}
        found.append(dict(zip(classes, session.run(None, given)[0][0].tolist(), strict=True)))
    return found


def over_http(folder: Path, paths: list[Path]) -> list[dict[str, float]]:
    with serving.listening(audioconfit.load(folder), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}/predict"
            answers = [urllib.request.urlopen(address, path.read_bytes(), timeout=60).read() for path in paths]
        finally:
            server.shutdown()
            thread.join()
    return [json.loads(answer)["probabilities"] for answer in answers]


def commanded(folder: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    capsys.readouterr()
    assert __main__.main(["predict", str(folder), *map(str, paths), "--json", "--top-k", "9"]) == 0
    return [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["generated", "real"])
def test_the_same_probabilities_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    if kind == "generated":
        synthesis.write("emodb", tmp_path / "data")
    elif corpora.CORPORA["emodb"].find(REAL) is None:
        pytest.skip(f"no EmoDB in {REAL}: set AUDIOCONFIT_DATA")
    data = tmp_path / "data" if kind == "generated" else REAL
    corpus = audioconfit.load_corpus("emodb", data, allow_incomplete=kind == "generated")
    model = audioconfit.fit(corpus, backbone="wav2vec2-tiny", method="frozen", chunk_seconds=1.0, progress=False)
    model.save(tmp_path / "model")
    for form in ("transformers", "onnx"):
        words = ["export", str(tmp_path / "model"), str(tmp_path / form), "--to", form]
        assert __main__.main(words) == 0

    paths = cut(corpus, tmp_path / "short", 1.0)
    ours = [named.probabilities for named in model.predict(paths)]
    elsewhere = {
        "transformers": (piped(tmp_path / "transformers", paths), 1e-5),
        "onnx": (in_onnx(tmp_path / "onnx", paths), 1e-4),
        "predict": (commanded(tmp_path / "transformers", paths, capsys), 1e-5),
        "http": (over_http(tmp_path / "transformers", paths), 1e-5),
    }
    assert max(probability for row in ours for probability in row.values()) > 0.5  # they say something
    for place, (rows, tolerance) in elsewhere.items():
        assert len(rows) == len(paths)
        apart = max(furthest(one, other) for one, other in zip(ours, rows, strict=True))
        assert apart < tolerance, place
        with capsys.disabled():
            print(f"\n{kind}: {place} at most {apart:.1e} apart on {len(paths)} clips of one chunk", end="")

    # Of several chunks: the pipeline's attention spans them all, ours each.
    paths = cut(corpus, tmp_path / "long", 4.0)
    ours = [named.probabilities for named in model.predict(paths)]
    rows = piped(tmp_path / "transformers", paths)
    differences = [furthest(one, other) for one, other in zip(ours, rows, strict=True)]
    agreed = sum(max(one, key=one.get) == max(other, key=other.get) for one, other in zip(ours, rows, strict=True))
    with capsys.disabled():
        print(f"\n{kind}: of several chunks: at most {max(differences):.3f} apart,", end=" ")
        print(f"{agreed} of {len(paths)} labels alike")
    served = over_http(tmp_path / "model", paths)
    assert max(furthest(one, other) for one, other in zip(ours, served, strict=True)) < 1e-5
    assert max(differences) > 1e-4
