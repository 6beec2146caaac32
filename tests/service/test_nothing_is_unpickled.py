"""Nothing that lies in a storage, or that somebody hands over, is unpickled: Python itself reports each attempt.

What is unpickled are messages between this sweep's own processes, in slots/worker.py and trial/assignment.py.
"""

import ast
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import makers
import mlflow
import pytest
import tiny_classifiers
from frozen_runs import begun, run
from small_runs import tuned

from audioconfit import audio, encoders, features, predictions
from audioconfit.classifier import Classifier
from audioconfit.corpora import parquet
from audioconfit.probe import Probe
from sweeps.outcome import handover, registry
from sweeps.trial.stages import StageStore

ROOT = Path(__file__).parents[2]
UNPICKLING = {"slots/worker.py", "trial/assignment.py"}  # of sweeps/: what this sweep's driver has pickled
seen: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and seen is not None:
        seen.append(".".join(map(str, arguments)))


sys.addaudithook(_hook)  # for good: Python takes none back


@contextmanager
def watched() -> Iterator[list[str]]:
    """What is unpickled in the block."""
    global seen
    found: list[str] = []
    seen = found
    try:
        yield found
    finally:
        seen = None


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_the_hook_sees_what_is_unpickled(tmp_path: Path) -> None:
    with watched() as found:
        pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
    assert found


def test_what_a_sweep_stores_and_hands_over_is_opened_without_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers.tones(tmp_path / "tones")
    trial = begun(tmp_path, "try")
    run(trial)
    store, folder = StageStore(trial.root), tmp_path / "handed"
    tiny_classifiers.made().save(folder / "classifier")
    mlflow.pyfunc.save_model(folder / "model", **registry.contents(folder / "classifier"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # a model puts its code in front
    with watched() as found:
        audio.load(trial.prepared)
        store.frozen_features(trial.recipe.stage_key)
        handover.assemble(trial, store)
        Classifier.load(folder / "classifier")
        mlflow.pyfunc.load_model(str(folder / "model"))
    assert not found


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("probe.safetensors", Probe.load),
        ("train.safetensors", features.load),
        ("predictions-test.safetensors", predictions.load),
        ("run.pt", tuned),
        ("clips.parquet", lambda path: parquet.audio_bytes(path, 0)),
        ("recording.wav", audio.to_int16),
    ],
)
def test_a_pickle_in_a_files_place_is_not_run(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with watched() as found, suppress(Exception):
        read(path)
    assert not (tmp_path / "mark").exists()
    assert not found


def test_weights_in_pickles_place_are_not_run(tmp_path: Path) -> None:
    made = tmp_path / "backbone"
    encoders.load("wav2vec2-random").save(made)
    (made / "model.safetensors").unlink()
    (made / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with watched() as found, suppress(Exception):
        encoders.load(str(made))
    assert not (tmp_path / "mark").exists()
    assert not found


def test_pickle_is_read_where_the_drivers_own_messages_arrive_and_nowhere_else() -> None:
    users = set()
    for path in [*(ROOT / "sweeps").rglob("*.py"), *(ROOT / "audioconfit").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("pickle.loads", "pickle.load", "joblib.load"):
                users.add(path.relative_to(ROOT / "sweeps").as_posix())
    assert users == UNPICKLING
