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
from sweeps import check, identity
from sweeps.outcome import registry
from sweeps.outcome.registry import Registered
from sweeps.outcome.selection import Candidate, Confirmed
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


def test_the_alias_goes_to_a_version_whose_files_are_there(folder: Path) -> None:
    assert [crown(folder, valid=0.9).version for _ in range(2)] == ["1", "1"]
    shutil.rmtree(folder / "storage" / "try" / "tracking" / "artifacts")
    assert (crown(folder, valid=0.9).version, champion(folder)) == ("2", "2")
    shutil.rmtree(folder / "storage" / "try")
    found = crown(folder, valid=0.5)  # another sweep of that name, which a better but dead champion must not outdo
    assert (found.version, found.why, champion(folder)) == ("3", "It is the best.", "3")
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'storage' / 'mlflow.db'}").delete_registered_model(NAME)
    assert (crown(folder).version, champion(folder)) == ("1", "1")


def test_a_moved_or_copied_storage_is_refused_until_its_places_are_written_anew(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    makers.tones(old / "tones")
    crown(old)
    shutil.copytree(old, new)
    before = sorted(old.rglob("*"))
    with pytest.raises(InputError, match=f"is the sweep that this one was copied from.*check.py {new / 'storage'}"):
        crown(new)
    old.rename(tmp_path / "gone")
    with pytest.raises(InputError, match=f"is not there any more.*check.py {new / 'storage'} --repair"):
        crown(new)
    assert not old.exists()
    assert check.main([str(new / "storage"), "--repair"]) == 0
    assert (crown(new).version, champion(new)) == ("1", "1")
    assert not old.exists()
    assert [tmp_path / "gone" / path.relative_to(old) for path in before] == sorted((tmp_path / "gone").rglob("*"))
