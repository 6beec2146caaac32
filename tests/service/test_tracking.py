"""Tracking on a real MLflow store: what was said once is there once, whatever happened in between."""

import getpass
import json
import multiprocessing
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import makers
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from audioconfit.errors import InputError
from sweeps.identity import Identity
from sweeps.search.studies import open_storage
from sweeps.tracking.journal import Outcome
from sweeps.tracking.provenance import Data
from sweeps.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def tracker(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tracker]:
    made = Tracker(uri, Identity(request.node.name, "0123456789ab"), tmp_path)
    yield made
    made.close()


def run(tracker: Tracker, key: str) -> Run:
    client = MlflowClient(tracking_uri=tracker.uri)
    found = client.search_runs([tracker.experiment], f"tags.key = '{key}'")
    assert len(found) == 1
    return found[0]


def tell(tracker: Tracker, key: str, *, epochs: range, ended: bool) -> None:
    tracker.start(
        key, cell="a-cell", name=f"name of {key}", kind="trial", params={"batch_size": 16}, tags={"backbone": "b"}
    )
    for epoch in epochs:
        tracker.metrics(key, epoch, {"loss": 1 / epoch, "epoch": epoch, "text": "no number", "bad": float("nan")})
    if ended:
        tracker.end(key, Outcome.COMPLETE)


def test_a_trial_is_a_finished_child_run_with_its_numbers(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "result.json").write_text("{}")
    tracker.cell("a-cell", tags={})
    tell(tracker, "t", epochs=range(1, 4), ended=False)
    tracker.end("t", Outcome.COMPLETE, files=tmp_path / "files")
    tracker.flush()
    found = run(tracker, "t")
    client = MlflowClient(tracking_uri=tracker.uri)
    assert (found.info.status, found.data.params["batch_size"]) == ("FINISHED", "16")
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == [1, 2, 3]
    assert set(found.data.metrics) == {"loss"}  # the epoch is the step
    assert found.data.tags["mlflow.parentRunId"] == tracker.run_id("cell:a-cell")
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["result.json"]


def test_each_method_has_metrics_and_charts_of_its_own(tracker: Tracker) -> None:
    tracker.page({"pairtune": {"lr": True, "temperature": False, "probe_lr": True}, "finetune": {"lr": True}})
    for method in ("pairtune", "finetune"):
        tracker.start(method, cell=f"of-{method}", name=method, kind="trial", params={}, tags={"method": method})
        tracker.metrics(method, 1, {"loss": 0.5, "epoch": 1})
    tracker.start("c", cell="of-finetune", name="c", kind="confirmation", params={}, tags={"method": "finetune"})
    tracker.metrics("c", 1, {"loss": 0.5})
    tracker.flush()
    assert set(run(tracker, "pairtune").data.metrics) == {"loss", "loss_pairtune"}
    assert set(run(tracker, "finetune").data.metrics) == {"loss", "loss_finetune"}
    assert set(run(tracker, "c").data.metrics) == {"loss"}
    tags = tracker.client.get_experiment(tracker.experiment).tags
    view = json.loads(tags["mlflow.sharedViewState.trials"])
    sections = {one["uuid"]: one["name"] for one in view["compareRunSections"]}
    drawn = {
        chart["metricKey"]: sections[chart["metricSectionId"]]
        for chart in view["compareRunCharts"]
        if chart["type"] == "LINE"
    }
    assert drawn["loss_pairtune"] == "Trials by PairTune"
    assert drawn["loss_finetune"] == "Trials by FineTune"
    assert not [column for column in view["selectedColumns"] if "test" in column]
    by_setting = {
        (chart["xaxis"]["key"], chart["xaxis"]["type"], chart["yaxis"]["key"])
        for chart in view["compareRunCharts"]
        if chart["type"] == "SCATTER"
    }
    assert by_setting == {
        ("log10_probe_lr", "METRIC", "valid_score_pairtune"),
        ("log10_probe_lr", "METRIC", "valid_score_finetune"),
        ("log10_lr", "METRIC", "valid_score_pairtune"),
        ("log10_lr", "METRIC", "valid_score_finetune"),
        ("temperature", "PARAM", "valid_score_pairtune"),  # FineTune reads no temperature
    }
    (parallel,) = (chart for chart in view["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert parallel["selectedParams"] == ["batch_size", "chunk_seconds", "probe_lr", "lr", "temperature"]
    assert {"params.`lr`", "params.`temperature`"} < set(view["selectedColumns"])
    cells = json.loads(tags["mlflow.sharedViewState.cells"])
    assert "importance_temperature" in {chart["metricKey"] for chart in cells["compareRunCharts"]}
    for kind in ("finalist", "confirmation", "cell"):
        assert json.loads(tags[f"mlflow.sharedViewState.{kind}s"])["searchFilter"] == f"tags.kind = '{kind}'"
        assert f"viewStateShareKey={kind}s" in tags["mlflow.note.content"].splitlines()[0]


def test_a_run_says_where_it_comes_from(uri: str, tmp_path: Path) -> None:
    data = Data("tones", "f" * 64, {"train": 10, "valid": 3, "test": 4})
    said = {"command": "python sweeps/grid.py --data a/b", "commit": "abc123", "version": "0.2"}
    made = Tracker(uri, Identity("provenance", "0123456789ab"), tmp_path, origin=said, data=[data])
    made.start("t", cell="c", name="t", kind="trial", params={"seed": 3, "fold": 1}, tags={"dataset": "tones"})
    made.close()
    found = run(made, "t")
    tags = found.data.tags
    assert (tags["mlflow.source.name"], tags["mlflow.source.git.commit"]) == ("sweeps/grid.py", "abc123")
    assert tags["command"] == "python sweeps/grid.py --data a/b"
    assert (tags["seed"], tags["fold"], tags["mlflow.user"]) == ("3", "1", getpass.getuser())
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("tones", "f" * 36)
    assert given.tags[0].value == "train 10, valid 3, test 4"


def test_a_failed_trial_says_why(tracker: Tracker) -> None:
    tell(tracker, "t", epochs=range(1, 2), ended=False)
    tracker.end("t", Outcome.FAILED, why="it diverged")
    tracker.flush()
    assert run(tracker, "t").info.status == "FAILED"
    assert run(tracker, "t").data.tags["why"] == "it diverged"
    assert "it diverged" in run(tracker, "t").data.tags["mlflow.note.content"]  # what MLflow shows above on its page


def test_a_restarted_trial_goes_on_in_its_run_and_no_step_is_there_twice(tracker: Tracker, tmp_path: Path) -> None:
    tell(tracker, "t", epochs=range(1, 4), ended=False)
    tracker.flush()
    again = Tracker(tracker.uri, tracker.sweep, tmp_path)
    tell(again, "t", epochs=range(1, 6), ended=True)
    again.close()
    found = run(tracker, "t")
    history = MlflowClient(tracking_uri=tracker.uri).get_metric_history(found.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]
    assert found.info.status == "FINISHED"


def test_what_mlflow_did_not_get_before_a_kill_is_replayed(tracker: Tracker, tmp_path: Path) -> None:
    tell(tracker, "t", epochs=range(1, 4), ended=True)
    tracker.close()
    applied = tmp_path / "events.applied"
    journal = tmp_path / "events.jsonl"
    late = json.dumps({"kind": "metrics", "key": "t", "time": 0, "step": 9, "metrics": {"loss": 0.5}})
    journal.write_text(journal.read_text() + late + "\n" + '{"kind": "metr')  # cut by the kill
    assert int(applied.read_text()) == 5
    again = Tracker(tracker.uri, tracker.sweep, tmp_path)
    again.close()
    assert run(tracker, "t").data.metrics["loss"] == 0.5
    assert journal.read_text().endswith(late + "\n")


def test_what_a_server_refused_is_sent_again_whole(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    send = tracker.client.log_batch
    refused: list[Any] = []

    def refuse_once(run_id: str, **batch: Any) -> None:
        if not refused:
            refused.append(run_id)
            raise ConnectionError("503")
        send(run_id, **batch)

    monkeypatch.setattr(tracker.client, "log_batch", refuse_once)
    tell(tracker, "t", epochs=range(1, 4), ended=True)
    tracker.flush()
    assert refused
    history = MlflowClient(tracking_uri=tracker.uri).get_metric_history(tracker.run_id("t"), "loss")
    assert [point.step for point in history] == [1, 2, 3]


def test_a_server_that_does_not_answer_is_named_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.tracking.server.ANSWER_SECONDS", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"MLflow at {uri} does not answer .*Connection refused"):
            Tracker(uri, makers.IDENTITY, tmp_path)


def begin(folder: Path, number: int) -> None:
    """What a sweep opens first."""
    Tracker(
        f"sqlite:///{folder / 'mlflow.db'}", Identity(f"try-{number}", f"{number:012}"), folder / f"{number}"
    ).close()
    open_storage(f"sqlite:///{folder / 'optuna.db'}")


@pytest.mark.slow  # 40 s of CPU: three processes import MLflow
def test_sweeps_that_begin_at_once_in_a_fresh_storage_make_its_tables_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    sweeps = [context.Process(target=begin, args=(tmp_path, number)) for number in range(3)]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join(300.0)
    assert [sweep.exitcode for sweep in sweeps] == [0, 0, 0]


def test_a_deleted_experiment_is_named_before_anything_runs(uri: str, tmp_path: Path) -> None:
    gone = Identity("gone", "0123456789ab")
    made = Tracker(uri, gone, tmp_path)
    made.close()
    MlflowClient(tracking_uri=uri).delete_experiment(made.experiment)
    with pytest.raises(InputError, match=f"'gone' was deleted in MLflow .*restore -x {made.experiment}"):
        Tracker(uri, gone, tmp_path / "again")


def test_two_storages_with_one_name_leave_each_others_runs_alone(uri: str, tmp_path: Path) -> None:
    sweeps = [Identity("one-name", "111111111111"), Identity("one-name", "222222222222")]
    for epochs in (2, 4):  # the second start of each finds its own runs
        for number, sweep in enumerate(sweeps):
            made = Tracker(uri, sweep, tmp_path / sweep.id)
            tell(made, "t", epochs=range(1, epochs + number), ended=epochs == 4)
            made.close()
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = {made.experiment for made in (Tracker(uri, sweep, tmp_path / sweep.id) for sweep in sweeps)}
    found = {run.data.tags["sweep_id"]: run for run in client.search_runs([experiment], "tags.key = 't'")}
    steps = {
        name: [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
        for name, run in found.items()
    }
    assert steps == {"111111111111": [1, 2, 3], "222222222222": [1, 2, 3, 4]}
    parents = client.search_runs([experiment], "tags.key = 'cell:a-cell'")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {run.info.run_id for run in parents}
    assert len(client.search_runs([experiment])) == 4  # a trial and its cell each


def test_a_sweep_of_an_earlier_version_goes_on_in_its_runs_and_a_later_one_does_not(uri: str, tmp_path: Path) -> None:
    early, late = Identity("aged", "111111111111", early=True), Identity("aged", "222222222222")
    first = Tracker(uri, early, tmp_path / "early")
    tell(first, "t", epochs=range(1, 3), ended=False)
    first.close()
    client = MlflowClient(tracking_uri=uri)
    (run_of_old,) = client.search_runs([first.experiment], "tags.key = 't'")
    for run in client.search_runs([first.experiment]):
        client.delete_tag(run.info.run_id, "sweep_id")  # as earlier versions left them
    for sweep, folder in ((late, "late"), (late, "late"), (early, "early")):
        again = Tracker(uri, sweep, tmp_path / folder)
        tell(again, "t", epochs=range(1, 4), ended=True)
        again.close()
    runs = {run.data.tags["sweep_id"]: run for run in client.search_runs([first.experiment], "tags.key = 't'")}
    assert len(runs) == 2
    assert runs[early.id].info.run_id == run_of_old.info.run_id
    history = client.get_metric_history(run_of_old.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3]
