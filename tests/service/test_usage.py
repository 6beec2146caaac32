"""What a trial takes of its machine: a tiny real one, and a GPU that says what it does, or not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import pytest
import torch

from audioconfit import audio, corpora
from audioconfit.clock import PHASES
from audioconfit.recipe import Recipe
from sweeps.trial import usage, work
from sweeps.trial.assignment import RESULT, Assignment
from sweeps.trial.usage import SHARE, SPEED, Usage


@pytest.fixture
def assign(tmp_path: Path) -> Callable[[str], Assignment]:
    corpus = corpora.load(str(makers.tones(tmp_path / "tones")), tmp_path)
    fingerprint = audio.prepare(corpus, tmp_path / "prepared").fingerprint

    def made(method: str) -> Assignment:
        numbers: dict[str, Any] = {"method": method, "chunk_seconds": 0.25, "batch_size": 8, "epochs": 2}
        recipe = Recipe(dataset=corpus.name, fingerprint=fingerprint, backbone="wav2vec2-random", **numbers)
        return Assignment(recipe, tmp_path / "prepared", tmp_path / "sweep", method)

    return made


def run(assignment: Assignment) -> dict[str, float]:
    told: list[dict[str, Any]] = []

    def tell(step: int, metrics: dict[str, Any] | None) -> bool:
        told.append(metrics or {})
        return True

    work.work(assignment, tell)
    return told[-1]


def test_the_shares_of_a_trials_time_add_up_to_one(assign: Callable[[str], Assignment]) -> None:
    trial = assign("pairtune")
    told = run(trial)
    shares = {phase: told[SHARE.format(phase=phase)] for phase in PHASES}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[phase] > 0 for phase in PHASES)
    # What its clock saw is what the whole trial took, but for writing the result.
    trained = shares["training"] * told["seconds"]
    assert told[SPEED] == pytest.approx(2 * 16 / trained, rel=0.2)  # two epochs of two batches of 8: 14 clips train
    left = json.loads((trial.folder / RESULT).read_text())
    assert {name: told[name] for name in left if name.startswith("system/")} == {
        name: value for name, value in left.items() if name.startswith("system/")
    }
    assert told["system/slot_peak_memory_megabytes"] > 100


def test_a_trial_that_trains_nothing_has_no_speed(assign: Callable[[str], Assignment]) -> None:
    told = run(assign("frozen"))
    assert SPEED not in told
    assert told[SHARE.format(phase="training")] == told[SHARE.format(phase="validation")] == 0
    assert told[SHARE.format(phase="extraction")] > 0


def test_gpu_use_is_a_mean_where_nvml_says_it_and_absent_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * usage.MEGABYTE)
    answers = iter((40, 80))
    for ask, expected in ((lambda: next(answers), 60.0), (silent, None)):
        monkeypatch.setattr(torch.cuda, "utilization", ask)
        watched = Usage()
        watched.look()
        watched.look()
        numbers = watched.numbers(audio_seconds=0.0, trained_seconds=0.0)
        assert numbers.get("system/gpu_use_percent") == expected
        assert numbers["system/peak_gpu_memory_megabytes"] == 3
