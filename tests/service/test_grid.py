"""The command, on a real Ray and a real MLflow store: it does its job, goes on, and refuses what cannot work."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import makers
import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient

from audioconfit import __main__ as command_line
from audioconfit import synthesis
from audioconfit.classifier import Classifier
from audioconfit.probe import Probe
from audioconfit.recipe import Recipe
from sweeps import grid, paper
from sweeps.trial.stages import StageStore

BACKBONE = "wav2vec2-random"


def command(storage: Path, *more: str, data: Path, trials: int = 2) -> list[str]:
    return [
        *("--datasets", str(data), "--backbones", BACKBONE, "--storage", str(storage), "--name", "try"),
        *("--trials", str(trials), "--epochs", "2", "--seeds", "1", "--batch-sizes", "8", "--chunks", "0.25,0.5"),
        *("--slots", "1", *more),
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 tones of three pitches, and a file that no trial can learn."""
    folder = makers.tones(tmp_path_factory.mktemp("data") / "tones")
    (folder / "pitch-0" / "empty.wav").touch()
    return folder


@pytest.fixture(scope="module")
def swept(local_ray: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with a finished sweep of two trials in it."""
    storage = tmp_path_factory.mktemp("storage")
    assert grid.main(command(storage, data=data)) == 0
    return storage


def client(storage: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")


def kinds(storage: Path) -> Counter[tuple[str, str]]:
    """MLflow's runs by kind and status."""
    runs = client(storage).search_runs([client(storage).get_experiment_by_name("try").experiment_id])
    return Counter((run.data.tags["kind"], run.info.status) for run in runs)


def test_a_sweep_leaves_its_trials_its_cells_and_its_confirmation_finished(swept: Path) -> None:
    found = kinds(swept)
    assert found[("trial", "FINISHED")] >= 2
    assert found[("cell", "FINISHED")] == 1
    assert found[("finalist", "FINISHED")] >= 2  # two recipes of the one cell
    assert found[("confirmation", "FINISHED")] >= 1
    assert {status for _, status in found} == {"FINISHED"}


def test_a_cell_has_the_list_of_clips_that_were_left_out(swept: Path, tmp_path: Path) -> None:
    store = client(swept)
    experiment = store.get_experiment_by_name("try").experiment_id
    (cell,) = store.search_runs([experiment], "tags.kind = 'cell'")
    listed = store.download_artifacts(cell.info.run_id, "left-out.csv", str(tmp_path))
    assert Path(listed).read_text().splitlines()[1:] == [",pitch-0/empty.wav,pitch-0,empty"]


def test_a_trial_has_its_parameters_curve_scores_and_picture(swept: Path) -> None:
    store = client(swept)
    experiment = store.get_experiment_by_name("try").experiment_id
    trial = store.search_runs([experiment], "tags.kind = 'trial' and tags.outcome = 'complete'")[0]
    assert {"batch_size", "chunk_seconds", "probe_lr", "backbone", "signature"} <= set(trial.data.params)
    assert {"valid_score", "valid_uar", "valid_macro_f1", "valid_knn", "loss"} <= set(trial.data.metrics)
    assert not any(name.startswith("test") for name in trial.data.metrics)  # the search does not read test
    assert [point.step for point in store.get_metric_history(trial.info.run_id, "loss")] == [1, 2]
    assert {file.path for file in store.list_artifacts(trial.info.run_id)} >= {"confusion.png", "result.json"}


def test_the_champion_loads_back_and_names_a_recording_as_in_training(swept: Path, data: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{swept / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/audioconfit-tones@champion")
    recordings = sorted(path for path in data.rglob("*.wav") if path.stat().st_size)
    told = model.predict(pd.DataFrame({"audio": [recording.read_bytes() for recording in recordings]}))
    folder = next((swept / "try" / "trials").glob("*-test-*"))
    summary = json.loads((folder / "result.json").read_text())
    encoder = StageStore(swept / "try").encoder(Recipe(**summary["recipe"]).stage_key)
    chunk_seconds, classes = summary["recipe"]["chunk_seconds"], tuple(summary["classes"])
    ours = Classifier(encoder, Probe.load(folder / "probe.safetensors"), chunk_seconds, classes)
    expected = [ours.probabilities(recording) for recording in recordings]
    assert list(told["label"]) == [ours.classes[int(row.argmax())] for row in expected]
    assert np.allclose(told["probability"], [float(row.max()) for row in expected], atol=1e-6)


def test_predict_and_export_take_the_champion_a_cell_and_a_trial(
    swept: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept / 'mlflow.db'}")
    (trial,) = (swept / "try" / "trials").glob("*-test-*")
    models = ["models:/audioconfit-tones@champion", str(swept / "try" / f"{BACKBONE}.tones"), str(trial)]
    assert command_line.main(["export", models[0], str(tmp_path / "out")]) == 0
    capsys.readouterr()
    found = []
    for model in [*models, str(tmp_path / "out")]:
        assert command_line.main(["predict", model, str(data / "pitch-1"), "--json", "--top-k", "3"]) == 0
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(found[0]) == 8
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert one["recording"] == other["recording"]
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    result = json.loads((trial / "result.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{result['metrics']['test_accuracy']:.4f} (" in card
    assert "60/20/20" in card or "random" in card


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("models:/nothing@champion", "cannot be had"),
        ("try/no-cell", "choose one of wav2vec2-random.tones"),
        ("nowhere", "No model"),
    ],
)
def test_a_model_that_there_is_not_is_refused(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, why: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept / 'mlflow.db'}")
    monkeypatch.chdir(swept)
    assert command_line.main(["export", model, "out"]) == 2
    assert why in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_better_champion_of_another_sweep_keeps_its_title_on_the_same_recordings_only(
    swept: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, store = "audioconfit-tones", client(swept)
    ours = store.get_model_version_by_alias(name, "champion")
    others = {"task": ours.tags["task"], "sweep": "other", "valid_score": "2.0"}
    better = store.create_model_version(name, ours.source, ours.run_id, tags=others)
    store.set_registered_model_alias(name, "champion", better.version)
    assert grid.main(command(swept, data=data)) == 0
    assert f"The champion stays version {better.version}, of the sweep other" in capsys.readouterr().out
    assert store.get_model_version_by_alias(name, "champion").version == better.version

    store.set_model_version_tag(name, better.version, "task", "other recordings")
    assert grid.main(command(swept, data=data)) == 0
    assert store.get_model_version_by_alias(name, "champion").version == ours.version


def test_the_papers_tables_and_figures_are_made_from_a_finished_sweep(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper.main(["--storage", str(swept), "--name", "try", "--out", str(tmp_path / "paper")]) == 0
    page = (tmp_path / "paper" / "paper.md").read_text()
    result = json.loads(next((swept / "try" / "trials").glob("*-test-*/result.json")).read_text())
    score = f"{100 * result['metrics']['test_score']:.2f}"
    assert re.search(rf"\| {BACKBONE} \| PairTune \| \*\*{score} \(\d+–\d+\)\*\* \|", page)
    assert "| tones | 3 |" in page  # classes
    for picture in re.findall(r"!\[\]\((.+)\)", page):
        assert (tmp_path / "paper" / picture).stat().st_size > 10_000
    assert f"figure2-tones-{BACKBONE}.png" in page
    assert paper.main(["--storage", str(tmp_path), "--name", "none"]) == 2
    assert "No sweep has begun in" in capsys.readouterr().err


def test_a_sweep_ends_with_its_report_which_the_champions_cell_has_in_mlflow(swept: Path, tmp_path: Path) -> None:
    written = (swept / "try" / "paper" / "report.html").read_text()
    assert "still running" not in written
    assert "<dt>command</dt>" in written
    store = client(swept)
    experiment = store.get_experiment_by_name("try").experiment_id
    (cell,) = store.search_runs([experiment], "tags.kind = 'cell'")
    logged = Path(store.download_artifacts(cell.info.run_id, "report.html", str(tmp_path))).read_text()
    assert "The best probe of each task" in logged


def test_the_same_command_again_repeats_nothing(swept: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, results = kinds(swept), sorted((swept / "try" / "trials").glob("*/result.json"))
    times = [path.stat().st_mtime for path in results]
    assert grid.main(command(swept, data=data)) == 0
    assert "all trials are done already" in capsys.readouterr().out
    assert kinds(swept) == before
    assert [path.stat().st_mtime for path in results] == times


def test_more_trials_extend_the_sweep(swept: Path, data: Path) -> None:
    before = kinds(swept)[("trial", "FINISHED")]
    assert grid.main(command(swept, data=data, trials=before + 1)) == 0
    assert kinds(swept)[("trial", "FINISHED")] == before + 1


def test_a_refit_trains_on_train_and_valid_and_is_handed_over(
    swept: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main([*command(swept, data=data), "--refit"]) == 0
    assert "Handed over: trained once more on train and valid" in capsys.readouterr().out
    (folder,) = (swept / "try" / "trials").glob("*-refit-*")
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert "test_score" in metrics
    assert not [name for name in metrics if name.startswith("valid")]
    champion = client(swept).get_model_version_by_alias("audioconfit-tones", "champion")
    assert champion.tags["key"] == folder.name
    assert kinds(swept)[("refit", "FINISHED")] == 1


def test_a_refit_of_lbfgs_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--probe=lbfgs", "--search=probe=adam,lbfgs")
    assert [grid.main(command(tmp_path, "--refit", word, data=data)) for word in words] == [2, 2]
    assert capsys.readouterr().err.count("no clips for the penalty of probe=lbfgs") == 2


def test_a_metric_that_the_task_has_not_is_replaced_and_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main(command(tmp_path, "--dry-run", "--metric", "map", data=data)) == 0
    assert "so there is no map; accuracy decides instead" in " ".join(capsys.readouterr().out.split())


def test_other_epochs_under_the_same_name_are_refused(
    swept: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main([*command(swept, data=data), "--epochs", "3"]) == 2
    assert "epochs was 2, is 3" in capsys.readouterr().err


def test_copies_of_a_recording_are_named_and_so_are_labels_that_disagree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = makers.tones(tmp_path / "tones")
    for copied in ("pitch-0/0 (1).wav", "pitch-1/other.wav"):
        (folder / copied).write_bytes((folder / "pitch-0" / "0.wav").read_bytes())
    assert grid.main(command(tmp_path / "storage", "--dry-run", data=folder)) == 0
    said = " ".join(capsys.readouterr().out.split())
    copies = "pitch-0/0 (1).wav = pitch-0/0.wav = pitch-1/other.wav"
    assert f"1 recordings are there more than once, byte for byte: {copies}." in said
    assert f"1 of them carry different labels: {copies}." in said


def test_a_dry_run_starts_nothing(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.main(command(tmp_path, "--dry-run", data=data)) == 0
    assert "Nothing was started" in capsys.readouterr().out
    assert not (tmp_path / "mlflow.db").exists()


def silent(folder: Path) -> None:
    soundfile.write(folder / "pitch-0" / "silent.wav", np.zeros(8000), makers.RATE)


def test_broken_recordings_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = makers.tones(tmp_path / "tones")
    (folder / "pitch-0" / "empty.wav").touch()
    (folder / "pitch-0" / "text.wav").write_text("this is no recording")
    silent(folder)
    assert grid.main(command(tmp_path / "storage", "--dry-run", data=folder)) == 0
    said = capsys.readouterr().out
    assert "tones: clips left out" in said
    for reason, name in [("empty", "pitch-0/empty.wav"), ("silent", "pitch-0/silent.wav"), ("not audio", "text.wav")]:
        assert re.search(rf"1 of 27 +{reason} +\S*{name}", said)
    file = tmp_path / "storage" / "try" / "left-out" / "tones" / "left-out.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["file"] for row in rows] == ["pitch-0/empty.wav", "pitch-0/silent.wav", "pitch-0/text.wav"]
    assert rows[0] == {"backbone": "", "file": "pitch-0/empty.wav", "labels": "pitch-0", "reason": "empty"}
    for name in ("empty", "silent", "text"):
        (folder / "pitch-0" / f"{name}.wav").unlink()
    assert grid.main(command(tmp_path / "storage", "--dry-run", data=folder)) == 0
    assert not file.exists()


BAD = {
    "an unknown dataset lists the known ones": (["--datasets", "emodb,nonsense"], ["nonsense", "esc50", "timit"]),
    "an unknown backbone lists the known ones": (["--backbones", "nonsense"], ["nonsense", "wavlm", "hubert-tiny"]),
    "a missing corpus says where it comes from": (["--datasets", "emodb", "--data", "none"], ["emodb", "wav", "none"]),
    "no trials": (["--trials", "0"], ["--trials", "0"]),
    "trials that are no number": (["--trials", "many"], ["--trials", "many"]),
    "a chunk longer than every clip": (["--chunks", "9"], ["9 s", "0.50 s"]),
    "a batch without a pair": (["--batch-sizes", "2"], ["--batch-sizes", "2"]),
    "a name that is no folder": (["--name", "a/b"], ["--name", "a/b"]),
    "an unknown method": (["--methods", "magic"], ["magic", "pairtune"]),
    "an unknown setting": (["--set", "magic=1"], ["--set", "magic", "temperature"]),
    "a setting without a value": (["--set", "temperature"], ["temperature", "NAME=VALUE"]),
    "a setting out of range": (["--set", "temperature=-1"], ["temperature=-1", "greater than 0"]),
    "an unknown miner": (["--set", "mining=magic"], ["mining=magic", "hardest"]),
    "an unknown protocol": (["--protocol", "magic"], ["magic"]),
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_input_ends_before_training(
    problem: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, expected = BAD[problem]
    assert grid.main([*command(tmp_path, data=data), *more]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in expected), said
    assert "Traceback" not in said
    assert not (tmp_path / "mlflow.db").exists()


def test_all_on_a_machine_that_lacks_some_shows_the_state_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = ["--datasets", "all", "--data", str(tmp_path), "--storage", str(tmp_path / "storage")]
    assert grid.main([*everything, "--backbones", BACKBONE]) == 2
    shown = capsys.readouterr()
    for name in ("emodb", "esc50", "gtzan", "mswc-indonesian", "mswc-spanish", "timit"):
        assert name in shown.out
    assert "--skip-missing" in shown.err
    assert "TRAIN and TEST" in shown.out  # TIMIT must be brought


def test_skip_missing_sweeps_over_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesis.write("emodb", tmp_path)
    everything = ["--datasets", "emodb,timit", "--data", str(tmp_path), "--storage", str(tmp_path / "storage")]
    assert grid.main([*everything, "--dry-run", "--skip-missing", "--backbones", BACKBONE]) == 0
    shown = capsys.readouterr().out
    assert "Left out: timit" in shown
    assert "1 cell" in shown


def test_a_class_with_one_clip_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = makers.tones(tmp_path / "tones")
    makers.tones(tmp_path / "one", classes=1, clips=1)
    (tmp_path / "one" / "pitch-0").rename(folder / "lonely")
    assert grid.main(command(tmp_path / "storage", data=folder)) == 2
    assert "lonely" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [("sound,label\na.wav,x\n", "path"), ("path,label\nmissing.wav,x\nother.wav,y\n", "missing.wav")],
    ids=["a missing column", "missing files"],
)
def test_a_bad_manifest_is_refused(
    manifest: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.csv"
    path.write_text(manifest)
    assert grid.main(command(tmp_path / "storage", data=path)) == 2
    assert expected in capsys.readouterr().err


def test_a_temporary_folder_too_deep_for_rays_sockets_is_refused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'a' * 60}")
    assert grid.main(command(tmp_path, data=data)) == 2
    assert "Set RAY_TMPDIR to a short folder" in capsys.readouterr().err
    assert not (tmp_path / "prepared").exists()


def test_a_storage_that_cannot_be_written_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert grid.main(command(tmp_path / "file", data=data)) == 2
    assert "Cannot write" in capsys.readouterr().err


def test_the_plan_says_what_a_sweep_will_cost(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.main(command(tmp_path, "--dry-run", data=data, trials=9)) == 0
    said = capsys.readouterr().out
    assert "1 cell, 9 trials" in said
    assert "the fastest to the slowest of 3 steps on this cpu" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("wav2vec2-random.tones"))
    # batches, chunks; two different stages, both on four further folds, one confirmation
    assert row[1:9] == ["8", "0.25", "0.5", "2", "+", "8", "+", "1"]


def test_a_sweep_that_began_with_another_seed_is_refused(
    swept: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main(command(swept, "--seed", "1", data=data)) == 2
    assert f"{BACKBONE}.tones: seed was 0, is 1." in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_reach_what_one_reaches(local_ray: None, tmp_path: Path, data: Path) -> None:
    reached = []
    for workers in ("1", "2"):
        storage = tmp_path / workers
        assert grid.main(command(storage, "--workers-per-trial", workers, data=data, trials=1)) == 0
        (result,) = (storage / "try" / "trials").glob("*-test-*/result.json")
        summary = json.loads(result.read_text())
        reached.append(StageStore(storage / "try").frozen_features(Recipe(**summary["recipe"]).stage_key)[0].embeddings)
    # The same gradient to rounding: the features may drift by as much as a few Adam steps amplify it.
    assert np.allclose(reached[0], reached[1], atol=1e-3 * float(reached[0].abs().max()))
