"""Sweeps that share one Optuna storage (a real SQLite file) keep to their own studies."""

from pathlib import Path

import makers
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from audioconfit.errors import InputError
from sweeps import identity
from sweeps.identity import Identity
from sweeps.request.cells import Cell
from sweeps.search.ownership import claim
from sweeps.search.studies import Budget, Studies, distributions, open_storage

CELL = makers.cell()
ONE, OTHER = Identity("one", "111111111111"), Identity("other", "222222222222")
EARLY = Identity("one", "111111111111", early=True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of the shared storage."""
    return f"sqlite:///{tmp_path / 'shared.db'}"


def start(url: str, sweep: Identity, folder: Path, *, cell: Cell = CELL, trials: int = 2, shared: bool = True) -> int:
    """One start of a sweep. Returns how many trials it ran; each leaves a result, as a slot would."""
    storage = open_storage(url)
    search = Studies([cell], budget=Budget(trials), root=folder, sweep=sweep, storage=storage, shared=shared)
    ran = 0
    while (asked := search.start("trial")) is not None:
        result = search.assignment(asked).folder / "result.json"
        result.parent.mkdir(parents=True)
        result.write_text("{}")
        search.finish("trial", {"ended": True, "valid_score": 0.5, "cost": 1.0})
        ran += 1
    return ran


def studies(url: str) -> dict[str, int]:
    """How many trials each study has."""
    return {study.study_name: study.n_trials for study in optuna.get_all_study_summaries(url)}


def left_by_an_earlier_version(url: str, folder: Path, *, results: bool) -> None:
    """A study that is called like its cell and says nothing of its sweep, with one trial."""
    study = optuna.create_study(study_name=CELL.name, storage=url, direction="maximize")
    trial = create_trial(
        state=TrialState.COMPLETE,
        value=0.5,
        params=CELL.space.first_guess(),
        distributions=distributions(CELL.space),
        user_attrs={"cost": 1.0},
    )
    study.add_trial(trial)
    if results:
        (folder / "trials" / f"{CELL.name}-0000").mkdir(parents=True)
        (folder / "trials" / f"{CELL.name}-0000" / "result.json").write_text("{}")


def test_two_sweeps_of_other_names_and_epochs_run_all_their_trials(url: str, tmp_path: Path) -> None:
    assert start(url, ONE, tmp_path / "one") == 2
    assert start(url, OTHER, tmp_path / "other", cell=makers.cell(epochs=9)) == 2
    assert start(url, ONE, tmp_path / "one", trials=3) == 1  # each goes on where it stopped
    assert studies(url) == {f"one-111111111111/{CELL.name}": 3, f"other-222222222222/{CELL.name}": 2}


def test_two_storages_with_sweeps_of_one_name_do_not_meet(url: str, tmp_path: Path) -> None:
    assert start(url, ONE, tmp_path / "a" / "one") == 2
    assert start(url, Identity("one", "333333333333"), tmp_path / "b" / "one") == 2
    assert sorted(studies(url).values()) == [2, 2]


def test_in_its_own_database_a_study_is_called_like_its_cell_and_stays_so(url: str, tmp_path: Path) -> None:
    assert start(url, ONE, tmp_path, shared=False) == 2
    assert start(url, ONE, tmp_path, trials=3, shared=True) == 1  # --optuna-storage names that very file
    assert studies(url) == {CELL.name: 3}


def test_a_study_whose_settings_differ_is_refused(url: str, tmp_path: Path) -> None:
    start(url, ONE, tmp_path)
    with pytest.raises(InputError, match=r"epochs was 4, is 9\.\n.*Choose another --name"):
        start(url, ONE, tmp_path, cell=makers.cell(epochs=9))


def test_a_sweep_of_an_earlier_version_goes_on_and_from_then_on_is_nobody_elses(url: str, tmp_path: Path) -> None:
    left_by_an_earlier_version(url, tmp_path, results=True)
    assert start(url, EARLY, tmp_path) == 1
    assert studies(url) == {CELL.name: 2}
    with pytest.raises(InputError, match=r"is of another sweep than 'other' \(its sweep_id is 111111111111"):
        start(url, Identity("other", "222222222222", early=True), tmp_path / "other")
    assert start(url, OTHER, tmp_path / "other") == 2


def test_a_study_that_an_earlier_version_mixed_is_refused(url: str, tmp_path: Path) -> None:
    left_by_an_earlier_version(url, tmp_path, results=False)
    with pytest.raises(InputError, match="holds trials of another sweep: trial 0 has left nothing in"):
        start(url, EARLY, tmp_path)


def test_a_sweep_that_is_sent_to_another_storage_is_refused(url: str, tmp_path: Path) -> None:
    start(f"sqlite:///{tmp_path / 'optuna.db'}", ONE, tmp_path, shared=False)
    with pytest.raises(InputError, match=r"has trials of wav2vec2-random\.tones, but .*Name the --optuna-storage"):
        start(url, ONE, tmp_path)


def test_a_driver_that_was_killed_before_the_study_said_whose_it_is(url: str, tmp_path: Path) -> None:
    for shared, name in ((False, CELL.name), (True, ONE.study(CELL.name))):
        optuna.create_study(study_name=name, storage=url, direction="maximize")
        assert claim(CELL, ONE, open_storage(url), folder=tmp_path, shared=shared) == name
        assert open_storage(url).get_study_user_attrs(1 + shared)["sweep_id"] == ONE.id


def test_an_identity_is_drawn_once_per_folder(tmp_path: Path) -> None:
    found = identity.of(tmp_path / "try", begun=False)
    assert identity.of(tmp_path / "try", begun=True) == found
    assert (found.name, len(found.id), found.early) == ("try", 12, False)
    assert identity.of(tmp_path / "elsewhere" / "try", begun=True).early
    assert identity.of(tmp_path / "elsewhere" / "try", begun=True).id != found.id


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id'])
def test_a_damaged_identity_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / identity.RECORD).write_text(content)
    with pytest.raises(InputError, match=r"identity\.json is damaged; .*sweep_id"):
        identity.of(tmp_path, begun=True)
