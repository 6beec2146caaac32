"""A classifier as an ONNX graph: onnxruntime gives our probabilities, for any batch and length."""

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnxruntime
import pytest
import soundfile
import yaml
from tiny_classifiers import CLASSES, made, recording
from tiny_encoders import ARCHITECTURES

from audioconfit import __main__, corpora, splits
from audioconfit.errors import InputError
from audioconfit.handover import onnx_graph
from audioconfit.recipe import Recipe

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_onnxruntime_gives_our_probabilities_for_any_batch_and_length(tmp_path: Path, architecture: str) -> None:
    several = architecture == "hubert"
    ours = made(architecture, several=several)
    assert onnx_graph.save(ours, tmp_path / "out").difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    paths = [
        recording(tmp_path, seconds, seed=seed, name=f"{seed}.wav") for seed, seconds in enumerate((0.9, 0.2, 0.5))
    ]
    heard = [soundfile.read(path, dtype="float32")[0] for path in paths]
    batch = np.full((3, len(heard[0])), 0.7, np.float32)  # padding is not zeros, and counts for nothing
    for row, samples in zip(batch, heard, strict=True):
        row[: len(samples)] = samples
    (together,) = session.run(None, {"waveforms": batch, "lengths": np.array([len(samples) for samples in heard])})
    expected = [list(named.probabilities.values()) for named in ours.predict(paths)]
    np.testing.assert_allclose(together, expected, atol=1e-4)
    assert (abs(together.sum(1) - 1) < 1e-5).all() != several
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == CLASSES
    assert (json.loads(about["thresholds"]) is not None) == several


@pytest.mark.slow
def test_the_command_writes_a_graph_and_a_card_whose_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, path = made(), recording(tmp_path)
    ours.save(tmp_path / "model")
    out = tmp_path / "out"
    ours.save(out)  # an earlier export, which is replaced
    assert __main__.main(["export", str(tmp_path / "model"), str(out), "--to", "onnx"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "classifier.json", "model.onnx"]
    page = (out / "README.md").read_text()
    assert yaml.safe_load(page.split("---")[1])["library_name"] == "onnx"
    (block,) = blocks.blocks(out / "README.md", section="Use")
    capsys.readouterr()
    monkeypatch.chdir(out)
    exec(block, {"samples": soundfile.read(path, dtype="float32")[0]})
    assert capsys.readouterr().out.strip() == ours.predict(path)[0].labels[0]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("onnxscript"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(InputError, match=r"needs the package onnxscript: pip install 'audioconfit\[onnx\]'"):
        onnx_graph.save(made(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_int8_is_tried_on_the_test_clips_and_says_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, seed in (("crow", 0), ("wren", 1)):
        (tmp_path / "birds" / label).mkdir(parents=True)
        for number in range(5):
            recording(tmp_path / "birds" / label, seed=10 * seed + number, name=f"{number}.wav")
    recipe = Recipe(dataset="birds", fingerprint="f", backbone="wav2vec2", chunk_seconds=1.0, epochs=1)
    about = {"recipe": recipe.model_dump(mode="json"), "metrics": {}, "signature": recipe.signature}
    ours = replace(made(), about=about)
    ours.save(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "onnx", "--int8", "--on"]
    assert __main__.main([*words, str(tmp_path / "birds")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    split = splits.split(corpora.load(str(tmp_path / "birds"), tmp_path))
    graphs = [onnxruntime.InferenceSession(tmp_path / "out" / name) for name in ("model.onnx", "model.int8.onnx")]
    rows = []
    for clip in split.test:
        samples = soundfile.read(clip.path, dtype="float32")[0]
        given = {"waveforms": samples[None], "lengths": np.array([len(samples)])}
        rows.append([graph.run(None, given)[0][0] for graph in graphs])
    labels = [clip.labels[0] for clip in split.test]
    right = [[CLASSES[row.argmax()] == label for row in pair] for pair, label in zip(rows, labels, strict=True)]
    accuracy, small = np.mean(right, axis=0)
    apart = max(abs(whole - eighth).max() for whole, eighth in rows)
    assert 0 < apart < 0.5  # random weights suffer more than trained ones
    reached = f"accuracy {small:.4f} in int8 and {accuracy:.4f} in float32"
    assert said.startswith(f"On {len(rows)} test recordings, read whole: {reached}")
    assert f"at most {apart:.3f} apart" in said
    assert said in (tmp_path / "out" / "README.md").read_text()
    sizes = [(tmp_path / "out" / name).stat().st_size for name in ("model.int8.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]
    assert __main__.main([*words, str(tmp_path / "birds" / ".." / "birds" / "crow"), "--data", str(tmp_path)]) == 2


def test_int8_is_a_form_of_onnx_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["export", "model", str(tmp_path / "out"), "--int8"]) == 2
    assert "--int8 takes --to onnx" in capsys.readouterr().err
