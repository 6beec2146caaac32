"""The plan: flags before the environment, the environment before defaults."""

from pathlib import Path

from sweeps import plan

CLUSTER = {
    "AUDIOCONFIT_DATA": "/srv/data",
    "AUDIOCONFIT_STORAGE": "/srv/storage",
    "MLFLOW_TRACKING_URI": "http://10.0.0.1:5000",
    "AUDIOCONFIT_OPTUNA_STORAGE": "postgresql://10.0.0.1/optuna",
}


def test_without_flags_a_cluster_says_where_things_are() -> None:
    found = plan.parse(["--datasets", "emodb"], CLUSTER)
    assert (found.data, found.storage) == (Path("/srv/data"), Path("/srv/storage"))
    assert (found.tracking_uri, found.optuna_storage) == ("http://10.0.0.1:5000", "postgresql://10.0.0.1/optuna")


def test_a_flag_overrules_the_environment() -> None:
    found = plan.parse(["--datasets", "emodb", "--storage", "here", "--tracking-uri", "sqlite:///x.db"], CLUSTER)
    assert (found.storage, found.tracking_uri) == (Path("here"), "sqlite:///x.db")


def test_an_empty_variable_says_nothing() -> None:
    assert plan.parse(["--datasets", "emodb"], {"AUDIOCONFIT_STORAGE": ""}).storage == Path("storage")


def test_recordings_are_those_folders_that_are_there(tmp_path: Path) -> None:
    (own := tmp_path / "own").mkdir()
    (data := tmp_path / "data").mkdir()
    asked = ["--datasets", f"emodb,{own},{tmp_path / 'missing'}", "--data", str(data)]
    assert plan.parse(asked, {}).recordings == [data, own]
    assert plan.parse(["--datasets", str(own), "--data", str(data)], {}).recordings == [own]
