"""Trials that fail: counted by reason, given up on where it is always the same one, run again when asked; and no more
trials asked ahead than slots can use.
"""

from pathlib import Path
from typing import Any

import makers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sweeps.request.cells import Cell, Space
from sweeps.search.studies import HOPELESS_TRIALS, Budget, Studies, open_storage, reasons

CELL, OTHER = makers.cell(backbone="wav2vec2-random"), makers.cell(backbone="hubert-random")
DONE = {"ended": True, "valid_score": 0.5, "cost": 1.0}


def started(folder: Path, *, cells: tuple[Cell, ...] = (CELL,), trials: int = 8, **how: Any) -> Studies:
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    return Studies(
        cells, budget=Budget(trials), root=folder, sweep=makers.IDENTITY, storage=storage, shared=False, **how
    )


def run_all(search: Studies, end: Any) -> list[str]:
    """Runs what there is to run, one trial at a time; `end` gives each its last result by key. Returns the keys."""
    ran = []
    while (asked := search.start("t")) is not None:
        ran.append(search.assignment(asked).key)
        search.finish("t", end(ran[-1]))
    return ran


def broken(key: str) -> dict[str, Any]:
    return {"failed": f"OutOfMemoryError: tried to allocate {len(key)}.5 MB of 80 GB at step {key[-1]}\nRecipe(...)"}


def test_a_cell_whose_first_trials_all_fail_for_one_reason_is_given_up(tmp_path: Path) -> None:
    search = started(tmp_path, cells=(CELL, OTHER))
    ran = run_all(search, lambda key: broken(key) if key.startswith("wav2vec2") else DONE)
    assert sum(key.startswith("wav2vec2") for key in ran) == HOPELESS_TRIALS
    assert sum(key.startswith("hubert") for key in ran) == 8  # the others go on
    assert search.hopeless == {CELL.name: "OutOfMemoryError: tried to allocate # MB of # GB at step #"}
    again = started(tmp_path, cells=(CELL, OTHER))
    assert again.hopeless == search.hopeless
    assert again.remaining() == 0


def test_a_cell_with_another_outcome_or_another_reason_goes_on(tmp_path: Path) -> None:
    ends = [broken("0"), {"failed": "ValueError: no"}, *map(broken, "234567")]
    search = started(tmp_path)
    assert len(run_all(search, lambda key: ends[int(key[-1])])) == 8
    assert dict(reasons(search.history(CELL))) == {
        "OutOfMemoryError: tried to allocate # MB of # GB at step #": 7,
        "ValueError: no": 1,
    }


def test_failed_trials_are_run_again_once_per_request_and_beyond_the_budget(tmp_path: Path) -> None:
    first = started(tmp_path)
    assert len(run_all(first, broken)) == HOPELESS_TRIALS
    again = started(tmp_path, retry_failed=True)
    assert again.remaining() == 8  # five again, and the three that were not asked
    ran = run_all(again, lambda key: DONE)
    assert ran[:5] == [CELL.key(number) for number in range(5, 10)]
    trials = again.history(CELL)
    assert [one.params for one in trials[5:10]] == [one.params for one in trials[:5]]
    assert [one.state for one in trials] == [TrialState.FAIL] * 5 + [TrialState.COMPLETE] * 8
    assert (again.hopeless, dict(reasons(trials))) == ({}, {})
    assert started(tmp_path, retry_failed=True).remaining() == 0
    assert started(tmp_path).remaining() == 0


def test_a_trial_whose_runner_died_is_held_and_runs_again(tmp_path: Path) -> None:
    search = started(tmp_path, trials=2)
    first = search.start("t")
    assert first is not None
    search.finish("t", {}, error=True)
    assert search.remaining() == 2
    again = search.start("u")
    assert again is not None
    assert again.trial.number == first.trial.number
    assert run_all(search, lambda key: DONE) == [CELL.key(1)]
    search.finish("u", DONE)
    assert {one.state for one in search.history(CELL)} == {TrialState.COMPLETE}


@settings(max_examples=30, deadline=None)
@given(
    slots=draw.integers(1, 8),
    stages=draw.integers(1, 4),
    picks=draw.lists(draw.integers(0, 7), min_size=200, max_size=200),
)
def test_no_more_trials_are_asked_than_slots_can_use(slots: int, stages: int, picks: list[int]) -> None:
    """Simulated slots: each takes a trial where there is one; then one of them ends, by any order. Three trials
    and a quarter of the slots may wait for a stage.
    """
    space = Space(batch_sizes=tuple(8 * (1 + n) for n in range(stages)), chunk_seconds=(0.5,))
    cell = Cell(makers.recipe(), space, Path("nowhere"))
    search = Studies(
        [cell],
        budget=Budget(12),
        root=Path("nowhere"),
        sweep=makers.IDENTITY,
        storage=InMemoryStorage(),
        shared=False,
    )
    ended = 0
    for turn, pick in enumerate(picks):
        for slot in range(slots - len(search.live)):
            if search.start(f"{turn} {slot}") is None:
                break
        running = list(search.live)
        waiting = len(search.history(cell)) - ended - len(running)
        assert waiting <= 3 + slots // 4
        if not running:
            break
        search.finish(running[pick % len(running)], DONE)
        ended += 1
    assert ended == 12  # and none is forgotten


@pytest.mark.parametrize("stages", [1, 2])
def test_convergence_ends_a_search_whose_trials_share_their_stage(tmp_path: Path, stages: int) -> None:
    space = Space(batch_sizes=(8, 16)[:stages], chunk_seconds=(0.5,))
    cell = Cell(makers.recipe(), space, Path("nowhere"))
    search = Studies(
        [cell],
        budget=Budget(30, converged=3),
        root=tmp_path,
        sweep=makers.IDENTITY,
        storage=InMemoryStorage(),
        shared=False,
    )
    for turn in range(30):
        for slot in range(2 - len(search.live)):
            search.start(f"{turn} {slot}")
        if not search.live:
            break
        search.finish(next(iter(search.live)), DONE)
    assert len(search.history(cell)) <= 4 + 5  # the best one, three without a better, and those asked by then
