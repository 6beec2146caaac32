"""A refit has no clips left to choose on: thresholds and neighbours are those of its folds."""

import json
from dataclasses import replace
from pathlib import Path

import makers
import pytest
import torch

from audioconfit import neighbours, probe
from audioconfit.predictions import Predictions
from audioconfit.probe import Probe
from sweeps.outcome import refitting
from sweeps.outcome.race import Finalist, Race
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.trial.assignment import PREDICTIONS, PROBE, RESULT, Assignment

PARAMS = {"batch_size": 8, "chunk_seconds": 0.5, "probe_lr": 0.01}


def ran(
    root: Path, key: str, logits: list[float], labels: list[int], *, threshold: float | None, k: int | None = 1
) -> Assignment:
    """A run that says this of the one class of its validation clips, `threshold` having been taken off."""
    done = Assignment(makers.recipe(), root, root, key)
    several = threshold is not None
    taken = torch.tensor([threshold]) if several else None
    Probe(("a",), torch.zeros(1, 2), torch.zeros(1), torch.zeros(2), torch.ones(2), taken).save(done.folder / PROBE)
    keys = tuple(f"{key}{number}" for number in range(len(logits)))
    truth = (
        torch.tensor(labels, dtype=torch.float32)[:, None] if several else torch.zeros(len(logits), dtype=torch.long)
    )
    said = torch.tensor(logits)[:, None] - (threshold or 0.0)
    Predictions(keys, (None,) * len(keys), truth, said).save(done.folder / PREDICTIONS.format(side="valid"))
    (done.folder / RESULT).write_text(json.dumps({"metrics": {"valid_score": 0.5}} | ({"k": k} if k else {})))
    return done


def winner(confirmed: Assignment) -> Candidate:
    return Candidate(makers.cell().name, (Confirmed(confirmed, {"valid_score": 0.5}),), cost=1.0)


def race_of(*folds: Assignment) -> Race:
    return Race([Finalist(makers.cell(), PARAMS, 0.5, 1.0, list(folds))], folds=len(folds), metric="map")


def test_thresholds_are_the_best_over_the_clips_of_all_folds(tmp_path: Path) -> None:
    # Raw logits 4+, 3+, 1- and 2+, 0-: below 2 all of the class are found without a mistake. The folds' own thresholds
    # are elsewhere, and what they took off is put back.
    first = ran(tmp_path, "one", [4.0, 3.0, 1.0], [1, 1, 0], threshold=2.0, k=3)
    second = ran(tmp_path, "two", [2.0, 0.0], [1, 0], threshold=1.0, k=10)
    confirmed = ran(tmp_path, "confirmed", [9.0, 8.0], [1, 0], threshold=8.5, k=50)
    made = refitting.recipe(winner(confirmed), race_of(first, second))
    assert made.refit
    assert made.probe_thresholds == (1.5,)
    assert made.probe_k == 3


def test_without_a_race_they_are_the_confirmed_runs_own(tmp_path: Path) -> None:
    made = refitting.recipe(winner(ran(tmp_path, "confirmed", [9.0, 8.0], [1, 0], threshold=0.0, k=20)))
    assert (made.probe_thresholds, made.probe_k) == ((8.5,), 20)


def test_single_labels_have_no_thresholds_and_old_runs_no_neighbours(tmp_path: Path) -> None:
    confirmed = ran(tmp_path, "confirmed", [1.0], [0], threshold=None, k=None)
    made = refitting.recipe(winner(confirmed))
    assert made == confirmed.recipe.model_copy(update={"refit": True})
    assert made.signature == replace(confirmed, recipe=made).recipe.signature


def test_a_probe_and_neighbours_take_what_they_are_given(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(40, 2, generator=draw) > 0.5).float()
    embeddings = torch.cat([labels, torch.randn(40, 3, generator=draw)], dim=1)
    side = probe.Features(embeddings, tuple(map(str, range(40))), labels)
    given = probe.fit(side, side, classes=("a", "b"), lr=0.1, thresholds=(0.5, -0.5))
    assert given.thresholds is not None
    assert given.thresholds.tolist() == [0.5, -0.5]
    own = probe.fit(side, side, classes=("a", "b"), lr=0.1)
    assert torch.equal(own.weight, given.weight)
    assert neighbours.fit(side, side, classes=("a", "b")).k == 1  # learned clips are their own neighbours
    assert neighbours.fit(side, side, classes=("a", "b"), k=7).k == 7


@pytest.mark.parametrize("field", ["probe_thresholds", "probe_k"])
def test_they_are_no_part_of_stage_one(field: str) -> None:
    plain = makers.recipe(refit=True)
    value = (0.5,) if field == "probe_thresholds" else 3
    changed = plain.model_copy(update={field: value})
    assert changed.stage_key == plain.stage_key
    assert changed.signature != plain.signature
