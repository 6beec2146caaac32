"""The descriptions of a cell and of a champion in MLflow."""

from pathlib import Path

import left_sweeps
import pytest

from sweeps.outcome import card
from sweeps.outcome.selection import Candidate
from sweeps.report import cell_page, record


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    return left_sweeps.finished(tmp_path / "sweep", tmp_path / "nowhere")[0]


def test_a_cell_says_what_won_and_links_to_its_runs(candidate: Candidate) -> None:
    trials = [cell_page.Scored("run-7", "007", {"batch_size": 16, "probe_lr": 0.0012}, 0.91)]
    note = cell_page.note("3", candidate, ["run-a", "run-b"], trials, 5, {"batch_size": 0.75, "probe_lr": 0.25})
    recipe = candidate.runs[0].recipe
    assert f"**Test accuracy: 75.00 ± 0.00** with batch_size {recipe.batch_size}" in note
    assert (
        "| [seed 1, fold 0](#/experiments/3/runs/run-b?workflowType=machine_learning) | 0.7500 | 0.7500 | 0.1" in note
    )
    assert "| [007](#/experiments/3/runs/run-7?workflowType=machine_learning) | 0.9100 | 16 | 0.0012 |" in note
    assert "The best 1 of 5 complete trials" in note
    assert "batch_size 75%, probe_lr 25%" in note
    assert "get-artifact?path=confusion.png&run_uuid=run-a" in note
    assert cell_page.winning(candidate, ["batch_size"]) == {"best_batch_size": str(recipe.batch_size)}


def test_a_cell_says_where_its_time_went(candidate: Candidate) -> None:
    ran = record.read(candidate.runs[0].assignment.root).runs
    note = cell_page.note("3", None, [], [], 0, {}, ran)
    assert "Slots worked 30.0 minutes for this cell: training 30%, rest 70%; 2.3 clips a second in training." in note
    assert "Slots worked" not in cell_page.note("3", None, [], [], 0, {})


def test_a_run_that_mlflow_has_lost_is_named_without_a_link(candidate: Candidate) -> None:
    trials = [cell_page.Scored(None, "007", {"batch_size": 16}, 0.91)]
    note = cell_page.note("3", candidate, [None, None], trials, 1, {})
    assert "| 007 | 0.9100 | 16 |" in note
    assert "get-artifact" not in note


def test_a_cell_without_a_confirmed_trial_says_so() -> None:
    assert cell_page.note("3", None, [], [], 0, {}).startswith("**No trial was confirmed on test.**")


def test_a_card_has_scores_with_intervals_and_how_to_call_it_but_no_password(candidate: Candidate) -> None:
    told = card.text("models:/audioconfit-tones@champion", "sqlite:///mlflow.db", candidate, "It won.")
    assert "| accuracy | 0.7500 | 0.1000 to 0.9000 |" in told
    assert "Test accuracy over 2 runs: 75.00 ± 0.00" in told
    assert "mlflow.pyfunc.load_model('models:/audioconfit-tones@champion')" in told
    assert "mlflow.set_tracking_uri('sqlite:///mlflow.db')" in told
    secret = card.text("models:/m@champion", "postgresql://me:secret@host/db", candidate, "It won.")
    assert "secret" not in secret
