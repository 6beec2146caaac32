"""What people see in MLflow's own pages, in Chromium: one server, of sweeps/ui.py, on one small sweep."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import blocks
import left_sweeps
import makers
import pytest
import tiny_classifiers
import torch
from mlflow import MlflowClient

from audioconfit import audio
from audioconfit.predictions import Predictions
from sweeps.outcome import registry
from sweeps.report import cell_page
from sweeps.tracking import server
from sweeps.tracking.journal import Outcome
from sweeps.tracking.provenance import Data
from sweeps.tracking.tracker import Tracker
from sweeps.trial import listening
from sweeps.trial.stages import StageStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium"),
]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1600,1400")


@dataclass
class Site:
    """MLflow's server as a user started it."""

    process: "subprocess.Popen[str]"
    link: str
    uri: str
    runs: dict[str, str]  # names -> ids

    @property
    def address(self) -> str:
        return self.link.partition("/#/")[0]

    def run(self, name: str, tab: str = "") -> str:
        return f"{self.address}/#/experiments/1/runs/{self.runs[name]}{tab}?workflowType=machine_learning"


def leave(storage: Path) -> None:
    """A sweep at its end: trials, one of them failed, confirmations that can be listened to, a cell, a champion."""
    recordings = left_sweeps.prepared(storage / "raw")
    folder = storage / makers.IDENTITY.name
    winner = left_sweeps.finished(folder, recordings)[0]
    data = Data("tones", "f" * 64, {"train": 10, "valid": 3, "test": 4})
    said = {"command": "python sweeps/grid.py --datasets tones", "commit": "abc123abc123"}
    uri = server.database_in(storage)
    tracker = Tracker(uri, makers.IDENTITY, folder / "tracking", origin=said, data=[data])
    tracker.page({"pairtune": {"temperature": False}, "finetune": {}})
    for run in winner.runs:
        recipe, key = run.recipe, run.assignment.key
        params = recipe.model_dump(mode="json")
        tags = {"dataset": "tones", "method": recipe.method, "cell": winner.cell}
        tracker.start(key, cell=winner.cell, name=f"test s{recipe.seed}", kind="confirmation", params=params, tags=tags)
        _mistakes(recordings, run.assignment.folder)
        tracker.metrics(key, 1, run.metrics)
        tracker.end(key, Outcome.COMPLETE, files=run.assignment.folder)
    tracker.start("drawn", cell=winner.cell, name="007 drawn", kind="trial", params={}, tags={"method": "pairtune"})
    tracker.metrics("drawn", 1, {"loss": 0.5, "valid_knn": 0.5})
    tracker.end("drawn", Outcome.COMPLETE)
    tracker.flush()
    best = [cell_page.Scored(tracker.run_id("drawn"), "007", {"batch_size": 16}, 0.9)]
    runs = [tracker.run_id(run.assignment.key) for run in winner.runs]
    note = cell_page.note(tracker.experiment, winner, runs, best, 5, {"batch_size": 1.0})
    tracker.end_cell(winner.cell, Outcome.COMPLETE, {"test_score": 0.75}, note=note)
    tracker.flush()
    registry.register(tracker, StageStore(folder), winner, "It has the highest mean validation score.")
    tracker.close()
    assert not tracker.problems


def _mistakes(recordings: Path, folder: Path) -> None:
    """Of six clips one is wrong, and its label suspected."""
    waveforms = audio.load(recordings)
    keys = tuple(clip.key for clip in waveforms.corpus.clips[:6])
    truth, taken = torch.tensor([0, 0, 1, 1, 2, 2]), torch.eye(3)[[0, 0, 2, 1, 2, 2]]
    predictions = Predictions(keys, (None,) * 6, truth, 3 * taken)
    listening.write(listening.of(predictions, waveforms.corpus.classes, taken, None), waveforms, folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    storage = tmp_path_factory.mktemp("storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        # The left sweep has no encoder; a tiny random one is as good to look at.
        patch.setattr(registry, "assemble", lambda best, store: tiny_classifiers.made())
        leave(storage)
    found = MlflowClient(tracking_uri=server.database_in(storage)).search_runs(["1"])
    command = [sys.executable, "-u", "sweeps/ui.py", str(storage), "--name", makers.IDENTITY.name]
    environment = os.environ | {"PYTHONPATH": str(blocks.ROOT)}
    with subprocess.Popen(command, cwd=blocks.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = next(line.strip() for line in process.stdout if "http" in line)
        yield Site(
            process, link, server.database_in(storage), {str(run.info.run_name): run.info.run_id for run in found}
        )
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def seen(address: str, *expected: str) -> str:
    """The page, once it shows all that is expected."""
    missing, page = list(expected), ""
    for seconds in (15, 30, 60):  # of the page's own clock, which waits for no one
        with tempfile.TemporaryDirectory() as profile:
            command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={seconds}000"]
            done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=150)
        page = done.stdout
        missing = [text for text in expected if text not in page]
        if not missing:
            return page
    pytest.fail(f"{address} does not show {missing}: {page[-3000:]}")


def test_the_link_opens_on_the_trials_with_charts_for_each_method(site: Site) -> None:
    page = seen(site.link, "Trials by PairTune", "Trials by FineTune", "007 drawn", "What matters")
    assert "Model training" in page
    assert "viewStateShareKey=confirmations" in page  # of the experiment's note
    assert "test s0" not in page


def test_a_failed_trial_says_why(site: Site) -> None:
    name = next(name for name in site.runs if name.endswith("-4"))
    seen(site.run(name), "out of memory in", "Failed")


def test_a_confirmation_says_where_it_comes_from_and_has_its_mistakes(site: Site) -> None:
    seen(site.run("test s0"), "python sweeps/grid.py", "tones", "abc123", "train 10, valid 3, test 4", "Created by")
    seen(site.run("test s0", "/artifacts"), "mistakes.html", "predictions.parquet", "scores.html")


def test_a_champion_has_a_card(site: Site) -> None:
    seen(f"{site.address}/#/models/audioconfit-tones", "The best probe of", "95 per cent interval", "load_model")
    (logged,) = MlflowClient(tracking_uri=site.uri).search_logged_models(["1"])
    # A number, as MLflow's own register_model writes it for a database.
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "audioconfit-tones", "version": 1}]


def test_ctrl_c_ends_the_server_and_all_that_it_started(site: Site) -> None:
    site.process.send_signal(signal.SIGINT)
    assert site.process.wait(60) == 0
    with socket.socket() as probe:
        assert probe.connect_ex((server.HOST, int(site.address.rpartition(":")[2]))) != 0
