"""Damaged state: what a power cut, a full disk or a hand leaves in a storage is noticed, made anew where it can be, and
named with the way out where it cannot. Each test damages real files.
"""

import json
import shutil
from pathlib import Path

import frozen_runs
import makers
import numpy as np
import pytest
from frozen_runs import begun, run

from audioconfit import audio, files
from audioconfit.errors import Damaged, InputError
from sweeps import faults
from sweeps.faults import Halted
from sweeps.outcome import confirmation, handover
from sweeps.request import resuming
from sweeps.search.studies import open_storage
from sweeps.slots import blame
from sweeps.slots.bench import Fault
from sweeps.trial.assignment import Assignment
from sweeps.trial.stages import StageStore


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """In place, the last half: the length stays."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    makers.tones(folder / "tones")
    return folder


@pytest.fixture(scope="module")
def trial(home: Path) -> Assignment:
    """A trial that is done."""
    made = begun(home, "try")
    run(made)
    return made


def test_a_damaged_stage_is_dropped_and_trained_again(trial: Assignment) -> None:
    store, stage = StageStore(trial.root), trial.recipe.stage_key
    before = {path.name: path.read_bytes() for path in store.folder(stage).glob("*.*")}
    assert before.keys() == {"train.safetensors", "valid.safetensors", "test.safetensors", "curve.json", files.SUMS}
    for name in before.keys() - {files.SUMS}:
        for damage in (halve, zero, Path.unlink):
            damage(store.folder(stage) / name)
            frozen_runs.forget()  # another process
            assert not store.is_whole(stage), (name, damage)
            (store.folder(stage) / name).write_bytes(before[name])
    frozen_runs.forget()
    assert store.has(stage)
    zero(store.folder(stage) / "encoder" / "model.safetensors")
    assert not store.has_encoder(stage)
    assert store.has(stage)
    halve(store.folder(stage) / "train.safetensors")
    frozen_runs.forget()
    assert not store.has(stage)
    run(trial)
    assert {path.name: path.read_bytes() for path in store.folder(stage).glob("*.*")} == before
    assert store.has_encoder(stage)


@pytest.mark.parametrize("place", ["stages", "trials"])
def test_a_storage_that_takes_no_stage_or_no_result_halts_and_ends_no_trial(home: Path, place: str) -> None:
    """A file where the folder should be, which root cannot write into either; mended, the trial goes on."""
    made = begun(home, f"no-{place}")
    made.root.mkdir(parents=True, exist_ok=True)
    (made.root / place).touch()
    with pytest.raises(Halted, match=r"The storage cannot be used on .*run the same command again") as halted:
        run(made)
    assert blame.of(halted.value) is Fault.NODE
    (made.root / place).unlink()
    run(made)
    assert made.is_done


def test_a_stage_of_an_earlier_version_is_whole_where_it_can_be_opened(trial: Assignment, tmp_path: Path) -> None:
    stage = trial.recipe.stage_key
    shutil.copytree(trial.root / "stages", tmp_path / "stages")
    store = StageStore(tmp_path)
    (store.folder(stage) / files.SUMS).unlink()
    assert store.has(stage)
    halve(store.folder(stage) / "train.safetensors")
    frozen_runs.forget()
    assert not store.has(stage)


def test_a_run_whose_files_are_damaged_is_not_done(trial: Assignment) -> None:
    for name in ("result.json", "probe.safetensors"):
        content = (trial.folder / name).read_bytes()
        frozen_runs.forget()
        assert trial.is_done
        (trial.folder / name).write_text("")
        frozen_runs.forget()
        assert not trial.is_done, name
        (trial.folder / name).write_bytes(content)


def test_prepared_samples_that_are_zeroed_end_the_sweep_and_are_decoded_again(home: Path) -> None:
    made = begun(home, "zeroed")
    whole = (made.prepared / "samples.i16").read_bytes()
    assert not audio.load(made.prepared).damaged()
    zero(made.prepared / "samples.i16")
    assert audio.load(made.prepared).damaged()
    with pytest.raises(Damaged, match=r"those of .*wav are not what was decoded. Run the same command again"):
        run(made)
    assert begun(home, "zeroed").prepared == made.prepared
    assert (made.prepared / "samples.i16").read_bytes() == whole
    assert run(made) == frozen_runs.CLASSES


def test_a_store_without_sums_is_read_as_it_is(home: Path) -> None:
    made = begun(home, "unsummed")
    index = json.loads((made.prepared / "index.json").read_text())
    sums = index.pop("sums")
    waveforms = audio.load(made.prepared)
    assert len(sums) == len(waveforms.corpus.clips)
    (made.prepared / "index.json").write_text(json.dumps(index))
    again = audio.load(made.prepared)
    (made.prepared / "index.json").write_text(json.dumps(index | {"sums": sums}))
    assert all(np.array_equal(again[clip.key], waveforms[clip.key]) for clip in waveforms.corpus.clips)


@pytest.mark.parametrize("content", ["", "}garbage{"])
def test_records_that_cannot_be_read_are_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "storage" / "try"
    for name in (resuming.RECORD, confirmation.RECORD, resuming.CONDUCT):
        files.write(folder / name, content)
    with pytest.raises(InputError, match=r"sweep.json is damaged .* python sweeps/check.py .*storage --repair"):
        resuming.recorded(folder)
    with pytest.raises(InputError, match=r"confirmed.json is damaged .* run again, makes it anew"):
        handover.load(str(folder / "a-cell"))
    assert resuming.note_conduct(folder, {"--micro-batch": 1}) is None
    assert json.loads((folder / resuming.CONDUCT).read_text()) == {"--micro-batch": [1]}


@pytest.mark.parametrize("damage", [halve, zero, lambda path: path.write_bytes(b"no database" * 1000)])
def test_a_damaged_database_is_named_and_an_empty_one_is_made_anew(tmp_path: Path, damage: object) -> None:
    database = tmp_path / "optuna.db"
    faults.check_database(database, tmp_path)
    open_storage(f"sqlite:///{database}").create_new_study(directions=[])
    faults.check_database(database, tmp_path)
    assert callable(damage)
    damage(database)
    with pytest.raises(InputError, match=rf"optuna.db is damaged \(.*\). python sweeps/check.py {tmp_path} --repair"):
        faults.check_database(database, tmp_path)
    database.write_bytes(b"")
    faults.check_database(database, tmp_path)


def test_a_storage_that_cannot_be_opened_is_an_error_of_the_flag() -> None:
    with pytest.raises(InputError, match=r"--optuna-storage: nosuch://me:\*\*\*@host/x cannot be used"):
        open_storage("nosuch://me:secret@host/x")
    with pytest.raises(InputError, match="--optuna-storage: journal:/not/there cannot be used"):
        open_storage("journal:/not/there")
