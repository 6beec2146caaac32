"""A sweep as teams run it: MLflow's server and Optuna's studies on a PostgreSQL that asks for a password.

One sweep of two trials: a minute of CPU time. Debian's `postgresql` has the server; without it this is skipped.
"""

from collections import Counter
from pathlib import Path

import databases
import drivers
import makers
import pytest
from drivers import driver
from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_sweep_on_postgresql_has_runs_studies_and_a_champion_and_tells_no_password(tmp_path: Path) -> None:
    programs = databases.programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'audioconfit[dev]' brings the driver")
    port = databases.free_port()
    uri = f"http://127.0.0.1:{port}"
    with databases.postgresql(programs) as server:
        tracked, studies = server.create("mlflow"), server.create("optuna")
        with databases.mlflow_server(tmp_path, port, store=tracked):
            arguments = [
                *("--datasets", str(makers.tones(tmp_path / "tones")), "--backbones", "wav2vec2-random"),
                *("--storage", str(tmp_path / "storage"), "--name", drivers.NAME, "--methods", "frozen"),
                *("--trials", "2", "--seeds", "1", "--slots", "1", "--select", "holdout", "--batch-sizes", "8"),
                *("--tracking-uri", uri, "--optuna-storage", studies),
            ]
            with driver(arguments, tmp_path / "said") as run:
                assert run.wait() == 0, run.said()
            client = MlflowClient(tracking_uri=uri)
            experiment = client.get_experiment_by_name(drivers.NAME).experiment_id
            runs = client.search_runs([experiment])
            assert {one.info.status for one in runs} == {"FINISHED"}
            assert Counter(one.data.tags["kind"] for one in runs) == {"trial": 2, "confirmation": 1, "cell": 1}
            assert client.get_model_version_by_alias("audioconfit-tones", "champion").version == "1"
            (confirmed,) = (one.info.run_id for one in runs if one.data.tags["kind"] == "confirmation")
            assert "mistakes.html" in {one.path for one in client.list_artifacts(confirmed)}  # through the server
        assert server.ask("mlflow", f"select count(*) from runs where experiment_id = {experiment}") == "4"
        assert f"{drivers.CELL}.frozen" in server.ask("optuna", "select study_name from studies")
        assert server.ask("optuna", "select state, count(*) from trials group by state") == "COMPLETE|2"
    assert f"{uri}/#/experiments/{experiment}/runs" in run.said()
    assert databases.PASSWORD not in run.said()
    left = [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]
    assert not [path for path in left if databases.PASSWORD.encode() in path.read_bytes()]
