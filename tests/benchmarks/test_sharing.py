"""Sharing stage 1: a search of 40 trials over 12 stage-1 keys, with the shared store and with a store for each trial:
`pytest -m benchmark -s tests/benchmarks/test_sharing.py`, two minutes on one core.

The real studies, the real store, the real trials of wav2vec2-random on generated tones, one after the other in this
process. Both searches must come out the same, trial by trial: sharing saves work and changes nothing.

On 2 shared cores under load 2 to 3, 2026-11-21: 3.6 times fewer epochs, 3.1 and 3.5 times less CPU time (two runs).
Where every key is tried and all cost the same, 40/12 is the most there can be.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import heading
import makers
import pytest
import torch

from audioconfit import audio, corpora
from sweeps.request.cells import Cell, Space
from sweeps.search.studies import Budget, Studies, open_storage
from sweeps.trial import work
from sweeps.trial.assignment import Assignment

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

TRIALS, EPOCHS = 40, 20
SPACE = Space(batch_sizes=(8, 12, 16), chunk_seconds=(0.125, 0.25, 0.5, 1.0))


@dataclass
class Spent:
    """What a search took, and what it found: the parameters and score of each trial."""

    found: list[tuple[Any, ...]]
    stages: int = 0
    epochs: int = 0
    cpu_seconds: float = 0.0


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """Tones of 1 s in so much noise that the trials differ, prepared."""
    folder = tmp_path_factory.mktemp("tones")
    corpus = corpora.load(str(makers.tones(folder / "tones", classes=4, clips=20, seconds=1.0, noise=5.0)), folder)
    waveforms = audio.prepare(corpus, folder / "prepared")
    base = makers.recipe(dataset=corpus.name, fingerprint=waveforms.fingerprint, epochs=EPOCHS, lr=3e-3)
    return Cell(base, SPACE, folder / "prepared")


def search(cell: Cell, root: Path, place: Callable[[Assignment], Assignment], trials: int = TRIALS) -> Spent:
    """A whole search; `place` says where a trial looks for stage 1 and leaves it."""
    root.mkdir()
    optuna = {"sweep": makers.IDENTITY, "storage": open_storage(f"sqlite:///{root / 'optuna.db'}"), "shared": False}
    studies = Studies([cell], budget=Budget(trials), root=root, **optuna, early_stopping=False)
    spent, began = Spent([]), time.process_time()
    while studies.remaining():
        assert studies.start("trial")
        assignment = studies.assignment(studies.live["trial"])
        final: dict[str, Any] = {}

        def tell(step: int, metrics: dict[str, Any] | None, final: dict[str, Any] = final) -> bool:
            if metrics is not None:
                spent.epochs += not metrics.get("ended")
                final.update(metrics)
                studies.report("trial", metrics)
            return True

        work.work(place(assignment), tell)
        spent.stages += not final["cached"]
        spent.found.append((assignment.recipe, final["valid_score"]))
        studies.finish("trial", final)
    spent.cpu_seconds = time.process_time() - began
    return spent


def test_sharing_costs_a_third(cell: Cell, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    search(cell, tmp_path / "first", lambda assignment: assignment, trials=1)  # what is imported is imported
    shared = search(cell, tmp_path / "shared", lambda assignment: assignment)
    alone = search(
        cell,
        tmp_path / "alone",
        lambda assignment: replace(assignment, root=assignment.root / assignment.key),
    )
    heading.show(f"A search of {TRIALS} trials over {SPACE.stage_count(TRIALS)} stage-1 keys")
    print("stage 1        runs   epochs   CPU s")
    for name, spent in (("shared", shared), ("each its own", alone)):
        print(f"{name:<14} {spent.stages:4d} {spent.epochs:8d} {spent.cpu_seconds:7.1f}")
    epochs, cpu = alone.epochs / shared.epochs, alone.cpu_seconds / shared.cpu_seconds
    print(f"{epochs:.1f} times fewer epochs, {cpu:.1f} times less CPU time")
    assert shared.found == alone.found
    assert epochs >= 3
    assert cpu >= 3
