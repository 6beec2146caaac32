"""A classifier as an ONNX graph: onnxruntime gives our probabilities, for any batch and length."""

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blocks
import jaxtyping
import numpy as np
import onnxruntime
import pytest
import soundfile
import yaml
from tiny_classifiers import CLASSES, made, recording
from tiny_encoders import ARCHITECTURES

from audioconfit import __main__
from audioconfit.errors import InputError
from audioconfit.handover import onnx_graph


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """The exporter calls with symbols in place of numbers, which the checks of shapes and types refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_onnxruntime_gives_our_probabilities_for_any_batch_and_length(tmp_path: Path, architecture: str) -> None:
    several = architecture == "hubert"
    ours = made(architecture, several=several)
    assert onnx_graph.save(ours, tmp_path / "out") < 1e-5
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
