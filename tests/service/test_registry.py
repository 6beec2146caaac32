"""The registry on a real MLflow: the alias goes to a version whose files are there, and none are written to a place
that the storage was moved from.
"""

import shutil
from pathlib import Path

import makers
import mlflow
import pytest
from frozen_runs import begun, run
from mlflow import MlflowClient

from audioconfit.errors import InputError
from sweeps import identity
from sweeps.outcome import registry
from sweeps.outcome.registry import Registered
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.tracking import places
from sweeps.tracking.journal import Outcome
from sweeps.tracking.tracker import Tracker
from sweeps.trial.stages import StageStore

NAME = "audioconfit-tones"


def crown(folder: Path, *, valid: float = 0.5) -> Registered:
    """One start of a sweep at its end: its only run confirmed and registered."""
    uri = f"sqlite:///{folder / 'storage' / 'mlflow.db'}"
    best = begun(folder, "try", key="wav2vec2-random.tones-test-1")
    if not best.is_done:
        run(best)
    tracker = Tracker(uri, identity.of(best.root, begun=False), best.root / "tracking")
    try:
        tracker.start(best.key, cell="a-cell", name="run", kind="confirmation", params={}, tags={})
        tracker.end(best.key, Outcome.COMPLETE)
        tracker.flush()
        winner = Candidate("wav2vec2-random.tones", (Confirmed(best, {"valid_score": valid, "test_score": 0.5}),), 1.0)
        return registry.register(tracker, StageStore(best.root), winner, "It is the best.")
    finally:
        tracker.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    makers.tones(tmp_path / "tones")
    return tmp_path


def champion(folder: Path) -> str:
    """The version that has the alias, which loads."""
    uri = f"sqlite:///{folder / 'storage' / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    assert mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{NAME}@champion", dst_path=str(folder / "loaded"))
    return str(MlflowClient(tracking_uri=uri).get_model_version_by_alias(NAME, "champion").version)


def test_a_better_version_whose_files_are_gone_loses_the_alias(folder: Path) -> None:
    assert crown(folder, valid=0.9).version == "1"
    shutil.rmtree(folder / "storage" / "try")
    found = crown(folder, valid=0.5)  # another sweep of that name, which must not leave a dead champion
    assert (found.version, champion(folder)) == ("2", "2")
    assert found.why == "It is the best."


def test_the_same_command_registers_anew_what_has_lost_its_files(folder: Path) -> None:
    assert [crown(folder).version, crown(folder).version] == ["1", "1"]
    shutil.rmtree(folder / "storage" / "try" / "tracking" / "artifacts")
    assert (crown(folder).version, champion(folder)) == ("2", "2")


def test_a_registered_model_that_was_deleted_is_made_again(folder: Path) -> None:
    crown(folder)
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'storage' / 'mlflow.db'}").delete_registered_model(NAME)
    assert (crown(folder).version, champion(folder)) == ("1", "1")


@pytest.mark.parametrize("copied", [False, True])
def test_a_moved_storage_is_refused_until_its_places_are_written_anew(tmp_path: Path, copied: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    makers.tones(old / "tones")
    crown(old)
    shutil.copytree(old, new)
    if not copied:
        old.rename(tmp_path / "gone")
    before = sorted(old.rglob("*"))
    how = "is the sweep that this one was copied from" if copied else "is not there any more"
    with pytest.raises(InputError, match=f"{how}.*check.py {new / 'storage'} --repair"):
        crown(new)
    assert sorted(old.rglob("*")) == before
    tracking = [home / "storage" / "try" / "tracking" for home in (old, new)]
    # The experiment, two runs (the cell's and its trial's), a model and its version.
    assert places.move(new / "storage" / "mlflow.db", *map(places.of, tracking)) == 5
    assert (crown(new).version, champion(new)) == ("1", "1")
    assert sorted(old.rglob("*")) == before
