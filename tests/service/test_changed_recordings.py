"""Recordings or labels that change under a sweep: nobody trains on others than it began with, and classes stay those
that a probe was trained on.
"""

from pathlib import Path

import makers
import pytest
from frozen_runs import begun, run

from audioconfit import audio
from sweeps.faults import Halted
from sweeps.outcome import handover
from sweeps.trial.stages import StageStore

NAMES = ["pitch-0", "pitch-1", "pitch-2"]


def rename(folder: Path) -> None:
    """The first class becomes the last, so that labels would be shifted by one."""
    (folder / "tones" / "pitch-0").rename(folder / "tones" / "z-pitch")


def test_a_sweep_over_renamed_classes_leaves_the_store_of_a_running_one(tmp_path: Path) -> None:
    makers.tones(tmp_path / "tones")
    first = begun(tmp_path, "first")
    assert run(first) == NAMES
    rename(tmp_path)
    second = begun(tmp_path, "second")
    assert run(second) == ["pitch-1", "pitch-2", "z-pitch"]
    assert run(first) == NAMES
    made = handover.assemble(first, StageStore(first.root))
    assert list(made.classes) == NAMES
    again = begun(tmp_path, "third")
    assert again.prepared == second.prepared  # one store for as many sweeps as look alike


def test_a_store_of_other_labels_ends_the_sweep_and_no_result_is_written(tmp_path: Path) -> None:
    """Stage 1 is stored, so the probe alone would have met the other labels."""
    makers.tones(tmp_path / "tones")
    first = begun(tmp_path, "first")
    run(first)
    (first.folder / "result.json").unlink()
    rename(tmp_path)
    other = begun(tmp_path, "second")
    for name in ("index.json", "samples.i16"):
        (first.prepared / name).write_bytes((other.prepared / name).read_bytes())
    with pytest.raises(Halted, match="recordings or labels of tones have changed since this sweep began"):
        run(first)
    assert not (first.folder / "result.json").exists()


def test_a_classifier_is_assembled_from_what_its_run_left(tmp_path: Path) -> None:
    makers.tones(tmp_path / "tones")
    first = begun(tmp_path, "first")
    run(first)
    (first.prepared / "index.json").unlink()
    made = handover.assemble(first, StageStore(first.root))
    assert list(made.classes) == NAMES
    assert made.about["protocol"]


def test_a_store_that_an_earlier_version_made_is_used_where_it_is(tmp_path: Path) -> None:
    makers.tones(tmp_path / "tones")
    keyed = begun(tmp_path, "first").prepared
    plain = keyed.with_name("tones")
    keyed.rename(plain)
    assert begun(tmp_path, "first").prepared == plain
    assert audio.load(plain).corpus.classes == tuple(NAMES)
