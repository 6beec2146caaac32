"""Studies: asked and told without Tune, on a real SQLite storage."""

import sqlite3
from pathlib import Path
from typing import Any

import makers
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ray.tune.search import Searcher

from audioconfit.recipe import Recipe
from sweeps.search.studies import HOPELESS_TRIALS, STARTUP_TRIALS, Budget, Studies, open_storage
from sweeps.search.tuning import StudySearcher

CELLS = [makers.cell(backbone="wav2vec2-random"), makers.cell(backbone="hubert-random")]


def own(folder: Path) -> dict[str, Any]:
    """Where the studies of a sweep are that names no other place."""
    return {"sweep": makers.IDENTITY, "storage": open_storage(f"sqlite:///{folder / 'optuna.db'}"), "shared": False}


def studies(tmp_path: Path, **changes: Any) -> Studies:
    budget = changes.pop("budget", Budget(trials=4))
    tmp_path.mkdir(exist_ok=True)
    return Studies(CELLS, budget=budget, root=tmp_path, **own(tmp_path), **changes)


def searcher(search: Studies, *, slots: int = 100) -> StudySearcher:
    """The studies as Tune asks them."""
    return StudySearcher(search, lambda: slots, pytest.fail)


@pytest.mark.parametrize(
    "ended", [{"update/ended": True, "update/valid_score": 0.5, "update/cost": 1.0}, {"update/failed": "x"}]
)
def test_a_full_storage_ends_the_sweep_and_the_trial_goes_on_at_the_next_start(
    tmp_path: Path, ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    search = studies(tmp_path)
    asking = StudySearcher(search, lambda: 1, told.append)
    assert asking.suggest("t0") is not None
    (storage,) = {study.storage for study in search.studies.values()}

    def full(*_: Any) -> None:
        raise StorageInternalError from sqlite3.OperationalError("database or disk is full")  # as Optuna raises it

    monkeypatch.setattr(storage, "set_trial_state_values", full)
    asking.on_trial_complete("t0", ended)
    assert len(told) == 1
    assert told[0].startswith("No room left (database or disk is full).")
    again = studies(tmp_path)
    assert again.start("t0") == again.live["t0"]
    assert [trial.state for trial in again.history(again.live["t0"].cell)] == [TrialState.RUNNING]


def score(recipe: Recipe) -> float:
    """A landscape with one best point: the largest batch, the longest chunk, any rate."""
    return recipe.batch_size / 100 + recipe.chunk_seconds


def ask(search: Studies, name: str) -> Recipe:
    asked = search.start(name)
    assert asked is not None
    return search.assignment(asked).recipe


def run(search: Studies, name: str) -> Recipe:
    recipe = ask(search, name)
    search.finish(name, {"ended": True, "valid_score": score(recipe), "cost": 1.0})
    return recipe


def test_the_least_served_cell_is_asked_first(tmp_path: Path) -> None:
    search = studies(tmp_path)
    asked = [run(search, str(number)).backbone for number in range(6)]
    assert asked.count("wav2vec2-random") == asked.count("hubert-random") == 3
    assert set(asked[:2]) == {"wav2vec2-random", "hubert-random"}


def test_a_search_begins_with_the_first_guess(tmp_path: Path) -> None:
    first = ask(studies(tmp_path), "0")
    assert (first.batch_size, first.chunk_seconds) == (16, 0.5)
    assert abs(first.probe_lr - 1e-2) < 1e-9  # the geometric middle of 1e-3 and 1e-1


def test_the_budget_ends_the_search(tmp_path: Path) -> None:
    search = studies(tmp_path)
    for number in range(8):
        run(search, str(number))
    assert search.remaining() == 0
    assert searcher(search).suggest("more") == "FINISHED"


def test_more_trials_continue_where_it_ended(tmp_path: Path) -> None:
    search = studies(tmp_path, budget=Budget(trials=2))
    before = {run(search, str(number)).probe_lr for number in range(4)}
    search = studies(tmp_path, budget=Budget(trials=3))
    assert search.remaining() == 2
    after = {run(search, str(number)).probe_lr for number in range(2)}
    assert not before & after  # no point twice


def test_no_trial_is_asked_before_a_slot_is_free(tmp_path: Path) -> None:
    one_slot = searcher(studies(tmp_path), slots=1)
    assert one_slot.suggest("0")["number"] == 0
    assert one_slot.suggest("1") is None


def test_a_trial_that_ran_when_the_driver_died_is_adopted(tmp_path: Path) -> None:
    key = searcher(studies(tmp_path)).suggest("0")["job"].key
    again = studies(tmp_path)
    assert again.remaining() == 8
    assert searcher(again).suggest("other")["job"].key == key


def test_a_restart_proposes_what_the_undisturbed_search_would(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    undisturbed = studies(tmp_path / "one", budget=Budget(trials=8))
    expected = [run(undisturbed, str(number)) for number in range(16)]
    found = []
    for start in range(4):
        search = studies(tmp_path / "two", budget=Budget(trials=8))
        found += [run(search, f"{start}-{number}") for number in range(4)]
    assert found == expected


def test_outcomes_are_told_as_what_they_are(tmp_path: Path) -> None:
    search = studies(tmp_path)
    for name, result in {
        "a": {"failed": "ValueError"},
        "b": {"failed": "x"},
        "c": {"valid_knn": 0.5, "epoch": 1},
    }.items():
        ask(search, name)
        search.finish(name, result)
    states = [trial.state for cell in CELLS for trial in search.history(cell)]
    assert sorted(state.name for state in states) == ["FAIL", "FAIL", "PRUNED"]


def test_an_interrupted_trial_is_left_to_be_adopted(tmp_path: Path) -> None:
    search = studies(tmp_path)
    ask(search, "0")
    search.interrupted.set()
    search.finish("0", {"failed": "cancelled"})
    assert [trial.state for cell in CELLS for trial in search.history(cell)] == [TrialState.RUNNING]


def test_a_converged_cell_asks_no_more(tmp_path: Path) -> None:
    search = studies(tmp_path, budget=Budget(trials=100, converged=3))
    for number in range(8):  # the first guess is the best point there is: nothing after it improves
        run(search, str(number))
    assert search.remaining() == 0


def one_after_the_other(search: Studies, trials: int) -> list[tuple[int, dict[str, Any]]]:
    """The number and the point of each trial as it is started; each ends before the next."""
    asked = []
    for number in range(trials):
        one = search.start(str(number))
        assert one is not None
        asked.append((one.trial.number, one.trial.params))
        search.finish(str(number), {"ended": True, "valid_score": 0.1, "cost": 1.0})
    return asked


@pytest.mark.parametrize("place", ["sqlite:///{}/optuna.db", "journal:{}/optuna.log"])
@pytest.mark.parametrize("over", ["converged", "hours", "hopeless"])
def test_a_trial_that_waits_for_a_stage_does_not_begin_once_its_search_is_over_and_is_asked_first_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: str, place: str
) -> None:
    own = {"sweep": makers.IDENTITY, "storage": open_storage(place.format(tmp_path)), "shared": False}
    cells, budget = [makers.cell()], Budget(trials=12, hours=1.0, converged=3 if over == "converged" else None)
    search = Studies(cells, budget=budget, root=tmp_path, **own)
    for number in range(5):
        search.start(str(number))
    waiting = [asked.trial.params for asked in search.held]
    assert len(search.live) == len(waiting) == 4
    if over == "hours":
        monkeypatch.setattr(search, "began", search.began - 3601.0)
    failed = {"failed": "x"} if over == "hopeless" else None
    if over == "hopeless":
        monkeypatch.setattr("sweeps.search.studies.HOPELESS_TRIALS", 4)
    for number, name in enumerate(list(search.live)):  # the first one is the best
        search.finish(name, failed or {"ended": True, "valid_score": 1.0 - number / 10, "cost": 1.0})
    assert search.remaining() == 0
    assert search.start("late") is None
    if over == "hopeless":
        assert Studies(cells, budget=budget, root=tmp_path, **own).remaining() == 0
        return

    again = Studies(cells, budget=Budget(trials=12), root=tmp_path, **own)
    assert again.remaining() == 8  # twelve in all, though four of these were asked before
    asked = one_after_the_other(again, 8)
    assert asked[:4] == list(zip(range(4, 8), waiting, strict=True))
    assert [number for number, _ in asked] == list(range(4, 12))
    assert again.remaining() == 0
    (study,) = again.studies.values()
    stored = study.storage.get_all_trials(study.id)
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 12


def test_a_trial_that_waited_when_its_driver_was_killed_has_not_begun(tmp_path: Path) -> None:
    cells = [makers.cell()]
    killed = Studies(cells, budget=Budget(trials=12), root=tmp_path, **own(tmp_path))
    for number in range(5):
        killed.start(str(number))
    ran, waited = (
        [(one.trial.number, one.trial.params) for one in asked] for asked in (killed.live.values(), killed.held)
    )
    late = Studies(cells, budget=Budget(trials=12, hours=1e-9), root=tmp_path, **own(tmp_path))
    assert late.remaining() == len(ran) == 4  # those that ran go on
    for number in range(5):
        late.start(str(number))
    assert [(one.trial.number, one.trial.params) for one in late.live.values()] == ran

    again = Studies(cells, budget=Budget(trials=12), root=tmp_path, **own(tmp_path))
    assert again.remaining() == 12
    asked = one_after_the_other(again, 12)
    assert asked[:8] == ran + waited
    assert [number for number, _ in asked] == list(range(12))


def test_a_start_counts_since_the_best_trial_as_the_search_that_ran_did(tmp_path: Path) -> None:
    """By when trials ended, and not by their numbers."""
    cells, budget = [makers.cell()], Budget(trials=12, converged=2)
    search = Studies(cells, budget=budget, root=tmp_path, **own(tmp_path))
    for name in "abcd":
        search.start(name)
    for name, score in (("b", 0.5), ("c", 0.4), ("d", 0.3), ("a", 0.6)):
        search.finish(name, {"ended": True, "valid_score": score, "cost": 1.0})
    assert search.stale == Studies(cells, budget=budget, root=tmp_path, **own(tmp_path)).stale == {cells[0].name: 0}


def test_a_cell_is_not_hopeless_once_a_trial_of_it_ended_well(tmp_path: Path) -> None:
    cells = [makers.cell()]
    search = Studies(cells, budget=Budget(trials=30), root=tmp_path, **own(tmp_path))
    ask(search, "lasts")
    for number in range(HOPELESS_TRIALS):
        ask(search, str(number))
        search.finish(str(number), {"failed": "x"})
    assert search.remaining() == 0
    search.finish("lasts", {"ended": True, "valid_score": 0.5, "cost": 1.0})
    assert search.hopeless == {}
    assert search.remaining() == 30 - HOPELESS_TRIALS - 1


def test_a_converged_search_waits_for_the_trials_that_run(tmp_path: Path) -> None:
    """For one of them may be the best."""
    search = Studies([makers.cell()], budget=Budget(trials=12, converged=2), root=tmp_path, **own(tmp_path))
    asking = searcher(search, slots=4)
    for name in "abcd":
        assert asking.suggest(name) is not None
    for name, score in (("a", 0.5), ("b", 0.4), ("c", 0.3)):
        asking.on_trial_complete(name, {"update/ended": True, "update/valid_score": score, "update/cost": 1.0})
    assert search.remaining() == 0
    assert asking.suggest("e") is None
    asking.on_trial_complete("d", {"update/ended": True, "update/valid_score": 0.6, "update/cost": 1.0})
    assert isinstance(asking.suggest("e"), dict)
    for name, score in (("e", 0.5), ("f", 0.5)):
        if name not in search.live:
            asking.suggest(name)
        asking.on_trial_complete(name, {"update/ended": True, "update/valid_score": score, "update/cost": 1.0})
    assert asking.suggest("g") == Searcher.FINISHED


def test_the_worse_half_is_pruned_after_a_third_of_the_epochs(tmp_path: Path) -> None:
    search = Studies(
        [makers.cell(epochs=12)],
        budget=Budget(trials=9),
        root=tmp_path,
        **own(tmp_path),
    )
    for number in range(STARTUP_TRIALS):  # these are never stopped
        name = str(number)
        ask(search, name)
        search.report(name, {"valid_knn": 0.5, "epoch": 4})
        assert not search.should_stop(name, {"valid_knn": 0.5, "epoch": 4})
        search.finish(name, {"ended": True, "valid_score": 0.5, "cost": 1.0})
    stopped = {}
    for name, reached in {"good": 0.9, "bad": 0.1}.items():
        ask(search, name)
        for epoch in (2, 4, 8):
            result = {"valid_knn": reached, "epoch": epoch}
            search.report(name, result)
            if search.should_stop(name, result):
                stopped[name] = epoch
                break
    assert stopped == {"bad": 4}


def test_a_journal_file_serves_as_storage(tmp_path: Path) -> None:
    search = Studies(
        CELLS,
        budget=Budget(trials=1),
        root=tmp_path,
        sweep=makers.IDENTITY,
        storage=open_storage(f"journal:{tmp_path / 'journal.log'}"),
        shared=True,
    )
    run(search, "0")
    assert search.remaining() == 1


def test_no_slot_is_given_a_trial_whose_stage_is_at_work(tmp_path: Path) -> None:
    search = Studies(
        [makers.cell()],  # four stages
        budget=Budget(trials=12),
        root=tmp_path,
        **own(tmp_path),
    )
    at_work = {ask(search, str(number)).stage_key for number in range(4)}
    assert len(at_work) == 4
    assert search.start("5") is None  # all that is left would wait
    assert search.remaining() == 8
    assert len(search.held) == 4
    for name in list(search.live):
        search.finish(name, {"ended": True, "valid_score": 1.0, "cost": 1.0})
    assert ask(search, "6").stage_key in at_work
    assert len(search.held) == 3  # those that wait go first


def test_another_seed_asks_for_other_trials_and_the_same_seed_for_the_same(tmp_path: Path) -> None:
    asked = []
    for number, seed in enumerate((0, 1, 1)):
        search = studies(tmp_path / str(number), seed=seed)
        asked.append([run(search, str(trial)) for trial in range(6)])
    assert asked[1] == asked[2]
    assert [recipe.probe_lr for recipe in asked[0]][2:] != [recipe.probe_lr for recipe in asked[1]][2:]
