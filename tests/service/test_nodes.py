"""Nodes: what one sees of the driver's folders, and what is said of one that does not."""

from pathlib import Path

import pytest

from sweeps import faults
from sweeps.cluster import nodes
from sweeps.faults import Halted
from sweeps.trial import work
from sweeps.trial.assignment import Assignment


@pytest.mark.usefixtures("local_ray")
def test_a_node_tells_its_versions_and_sees_the_drivers_folders(tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    (here,) = nodes.look(tmp_path / "storage", [data])
    assert here.versions == nodes.versions()
    assert (here.unseen, here.unwritable, here.gpus) == ((), None, 0)
    assert list((tmp_path / "storage").iterdir()) == []  # nothing of the look remains


@pytest.mark.usefixtures("local_ray")
def test_a_single_node_shares_with_itself(tmp_path: Path) -> None:
    nodes.check_shared(tmp_path, [])


def test_a_folder_of_the_same_path_with_other_content_is_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    wanted = nodes._names(folder)
    assert wanted == ""
    folder.mkdir()
    empty = nodes._names(folder)
    (folder / "emodb").mkdir()
    assert len({wanted, empty, nodes._names(folder)}) == 3


def test_who_does_not_see_the_storage_is_named_with_the_way_out() -> None:
    said = faults.not_shared(Path("/srv/storage"), "node7 (10.0.0.7)")
    assert "/srv/storage" in said
    assert "node7 (10.0.0.7)" in said
    assert "AUDIOCONFIT_STORAGE" in said


def test_a_trial_on_a_node_without_the_storage_halts_the_sweep_and_does_not_fail(tmp_path: Path) -> None:
    elsewhere = Assignment(None, tmp_path / "not" / "here", tmp_path, "key")
    with pytest.raises(Halted, match="--storage"):
        work.work(elsewhere, lambda step, metrics: True)
