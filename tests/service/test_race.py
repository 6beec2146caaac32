"""The race, on results that the test writes: who drops out, who wins, and that a stop changes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import makers
import pytest
import torch

from audioconfit import files
from audioconfit.predictions import Predictions
from sweeps.outcome import race, runs, selection
from sweeps.outcome.race import Finalist, Race
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.request.cells import Cell
from sweeps.trial.assignment import RESULT, Assignment

CLIPS = 40
Hits = Mapping[str, Sequence[int]]  # per cell, how many clips of each fold it gets right


def finalist(backbone: str, cost: float = 1.0, valid: float = 0.5, **params: Any) -> Finalist:
    searched = {"batch_size": 8, "chunk_seconds": 0.5, "probe_lr": 1e-2} | params
    return Finalist(makers.cell(backbone=backbone), searched, valid, cost)


def leave_result(assignment: Assignment, right: int, groups: int = 0) -> None:
    """A finished fold: its first clips right, the others wrong, dealt to `groups` speakers in turn, if any."""
    fold = assignment.recipe.inner_fold
    hits = torch.arange(CLIPS) < right
    keys = tuple(f"{fold}-{clip}" for clip in range(CLIPS))
    named = tuple(f"{fold}-s{clip % groups}" if groups else None for clip in range(CLIPS))
    logits = torch.stack([hits.float(), 1 - hits.float()], 1)
    assignment.folder.mkdir(parents=True, exist_ok=True)
    Predictions(keys, named, torch.zeros(CLIPS, dtype=torch.long), logits).save(
        assignment.folder / "predictions-valid.safetensors"
    )
    numbers = {"valid_score": right / CLIPS, "valid_accuracy_low": 0.3, "valid_accuracy_high": 0.7}
    files.write(assignment.folder / RESULT, json.dumps({"metrics": numbers}))


def run(lanes: Race, root: Path, hits: Hits, *, most: int = 10**6, groups: int = 0) -> int:
    """Runs the race, at most `most` assignments that were not done. Returns how many it ran."""
    ran = 0
    while work := lanes.next_fold(root, None):
        for cell, assignment in work:
            if not assignment.is_done:
                if ran == most:
                    return ran
                leave_result(assignment, hits[cell.base.backbone][assignment.recipe.inner_fold], groups)
                ran += 1
        lanes.settle(root, None, {})
    return ran


def started(*names: str, folds: int = 5) -> Race:
    return Race([finalist(name) for name in names], folds, "accuracy")


def standing(lanes: Race) -> list[str]:
    return [one.cell.base.backbone for one in lanes.standing()]


def test_the_best_mean_over_the_folds_wins_and_not_the_best_validation_side(tmp_path: Path) -> None:
    lanes = started("lucky", "steady")
    run(lanes, tmp_path, {"lucky": [26, 24, 21, 24, 21], "steady": [24, 25, 19, 26, 26]})
    assert standing(lanes) == ["steady", "lucky"]
    assert lanes.standing()[0].mean == pytest.approx(24 / CLIPS)


def test_who_is_behind_beyond_doubt_drops_out_and_runs_no_further_fold(tmp_path: Path) -> None:
    lanes = started("good", "close", "bad")
    hits = {"good": [30] * 5, "close": [33, 27, 32, 28, 29], "bad": [10] * 5}
    assert run(lanes, tmp_path, hits) == 5 + 5 + 1
    assert standing(lanes) == ["good", "close", "bad"]
    assert "the leader is ahead" in (lanes.standing()[2].out or "")


def test_a_lead_that_leaves_no_rival_ends_the_race(tmp_path: Path) -> None:
    assert run(started("good", "bad"), tmp_path, {"good": [35] * 5, "bad": [5] * 5}) == 2


def test_one_speakers_clips_drop_nobody(tmp_path: Path) -> None:
    # Had the validation side several speakers, one fold would do; with one it takes a second fold.
    hits = {"good": [35] * 5, "bad": [5] * 5}
    assert run(started("good", "bad"), tmp_path / "one", hits, groups=1) == 4
    assert run(started("good", "bad"), tmp_path / "eight", hits, groups=8) == 2


def test_equal_finalists_go_to_the_cheaper_one(tmp_path: Path) -> None:
    lanes = Race([finalist("dear", cost=9.0), finalist("thrifty", cost=1.0)], 2, "accuracy")
    run(lanes, tmp_path, {"dear": [20, 20], "thrifty": [20, 20]})
    assert standing(lanes) == ["thrifty", "dear"]


def test_a_race_stopped_anywhere_and_begun_again_ends_the_same(tmp_path: Path) -> None:
    hits = {"a": [26, 20, 22, 25, 20], "b": [24, 24, 21, 23, 25], "c": [23, 10, 30, 9, 8]}
    whole = started(*hits)
    total = run(whole, tmp_path / "whole", hits)
    for stop in range(total):
        run(started(*hits), tmp_path / str(stop), hits, most=stop)
        again = started(*hits)
        assert run(again, tmp_path / str(stop), hits) == total - stop
        assert [(one.scores, one.out) for one in again.standing()] == [
            (one.scores, one.out) for one in whole.standing()
        ]


def test_a_finalist_that_fails_drops_out_with_the_reason(tmp_path: Path) -> None:
    lanes = started("sound", "broken", folds=2)
    work = {cell.base.backbone: assignment for cell, assignment in lanes.next_fold(tmp_path, None)}
    leave_result(work["sound"], 20)
    lanes.settle(tmp_path, None, {work["broken"].key: "It ran out of memory."})
    assert standing(lanes) == ["sound"]
    assert lanes.finalists[1].out == "It ran out of memory."


def test_a_validation_side_that_tells_enough_needs_no_further_fold(tmp_path: Path) -> None:
    def leave(lanes: Race, groups: int = 0) -> None:
        for _, assignment in lanes.next_fold(tmp_path, None):
            leave_result(assignment, 20, groups)
            numbers = {"valid_score": 0.5, "valid_accuracy_low": 0.485, "valid_accuracy_high": 0.515}
            files.write(assignment.folder / RESULT, json.dumps({"metrics": numbers}))
        lanes.settle(tmp_path, None, {})

    lanes = started("a", "b")
    leave(lanes)
    assert lanes.is_decided
    asked_for = replace(started("a", "b"), always=True)
    leave(asked_for)
    assert not asked_for.is_decided
    one_speaker = started("a", "b")
    leave(one_speaker, groups=1)
    assert not one_speaker.is_decided


def test_every_cell_has_a_finalist_and_the_best_of_the_rest_follow() -> None:
    a = [finalist("a", valid=valid, chunk_seconds=chunk) for valid, chunk in ((0.9, 0.5), (0.8, 0.5), (0.7, 0.25))]
    b = [finalist("b", valid=valid, batch_size=size) for valid, size in ((0.5, 8), (0.4, 16))]
    chosen = race.finalists([a, b, []], count=4)
    # The second of a shares its stage 1 with the first, and differs in nothing here.
    assert chosen == [a[0], b[0], a[2], b[1]]
    assert race.finalists([a, b], count=1) == [a[0], b[0]]


def test_recipes_of_frozen_backbones_race_for_nothing() -> None:
    cell = makers.cell(backbone="still", method="frozen")
    still = [
        replace(finalist("x", valid=valid, chunk_seconds=chunk), cell=cell) for valid, chunk in ((0.3, 1.0), (0.2, 2.0))
    ]
    tuned = [finalist("tuned", valid=valid, batch_size=size) for valid, size in ((0.9, 8), (0.8, 16), (0.7, 32))]
    assert race.finalists([tuned, still], count=3) == [tuned[0], still[0], tuned[1], still[1]]


def confirmed(cell: Cell, root: Path, seeds: int, right: int) -> Candidate:
    made = []
    for seed in range(seeds):
        assignment = runs.CONFIRMATION.assignment(cell, cell.base.model_copy(update={"seed": seed}), root, None)
        leave_result(assignment, right)
        (assignment.folder / "predictions-valid.safetensors").rename(assignment.folder / "predictions-test.safetensors")
        made.append(Confirmed(assignment, {"valid_score": 0.9, "test_score": right / CLIPS, "test_uar": 0.5}))
    return Candidate(cell.name, tuple(made), 1.0)


def test_the_races_first_is_the_champion_and_says_by_how_much(tmp_path: Path) -> None:
    lanes = started("lucky", "steady")
    run(lanes, tmp_path, {"lucky": [26, 24, 21, 24, 21], "steady": [24, 25, 19, 26, 26]})
    lucky, steady = (
        confirmed(one.cell, tmp_path, 2, right) for one, right in zip(lanes.finalists, (8, 30), strict=True)
    )
    assert selection.champion([lucky, steady], lanes) is steady
    said = selection.explain(steady, [lucky, steady], lanes)
    assert "steady (pairtune) leads the race of 2 finalists on tones: mean accuracy 0.6000 over 5 inner folds" in said
    assert "they cannot be told apart" in said
    assert "On the same test clips it is +0.5500" in said
    assert selection.champion([lucky], lanes) is lucky  # the winner's own confirmation failed


def test_a_table_shows_per_cent_and_the_log_loss_in_nats(tmp_path: Path) -> None:
    one = confirmed(finalist("one").cell, tmp_path, 2, 30)
    assert one.shown == "75.00 ± 0.00"
    cell = makers.cell(backbone="one", metric="log_loss")
    run = replace(confirmed(cell, tmp_path, 1, 30).runs[0], metrics={"valid_score": -0.5, "test_score": -0.25})
    assert Candidate(cell.name, (run, run), 1.0).shown == "0.250 ± 0.000"
    assert Candidate(cell.name, (run,), 1.0).shown == "0.250"  # of one run there is no deviation, and here no interval
    known = replace(run, metrics=run.metrics | {"test_log_loss_low": 0.2, "test_log_loss_high": 0.31})
    assert Candidate(cell.name, (known,), 1.0).shown == "0.250 (0.20–0.31)"


def test_what_a_race_came_to_is_written_down(tmp_path: Path) -> None:
    lanes = started("good", "bad")
    run(lanes, tmp_path, {"good": [35] * 5, "bad": [5] * 5})
    race.record(tmp_path, {"tones": lanes})
    told = json.loads((tmp_path / "race.json").read_text())["tones"]
    assert (told["metric"], told["folds"]) == ("accuracy", 5)
    assert [one["cell"] for one in told["finalists"]] == ["good.tones", "bad.tones"]
