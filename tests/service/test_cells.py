"""Cells have names of their own, in one start of a sweep and over several."""

from pathlib import Path
from typing import Any

import makers
import pytest

from audioconfit.errors import InputError
from sweeps.request.cells import Cell, tell_apart
from sweeps.request.resuming import reconcile, recorded


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two backbones whose last path names are alike, as they are typed."""
    monkeypatch.chdir(tmp_path)
    found = ["run1/checkpoint", "run2/checkpoint"]
    for name in found:
        Path(name).mkdir(parents=True)
    return found


def cell(backbone: str, **changes: Any) -> Cell:
    return makers.cell(backbone=backbone, weights=f"weights of {Path(backbone).parent.name}", **changes)


def start(storage: Path, cells: list[Cell]) -> list[str]:
    """The names of the cells in one start of a sweep."""
    named = tell_apart(cells, recorded(storage))
    reconcile(storage, named)
    return [one.name for one in named]


def test_folders_of_one_last_name_are_two_cells_whatever_their_order(tmp_path: Path, folders: list[str]) -> None:
    first, second = start(tmp_path, [cell(name) for name in folders])
    assert first != second
    assert all(name.startswith("checkpoint-") and name.endswith(".tones") for name in (first, second))
    assert start(tmp_path, [cell(name) for name in reversed(folders)]) == [second, first]
    assert start(tmp_path, [cell(folders[1])]) == [second]  # nor does its name depend on who else is there


def test_a_folder_alone_and_names_that_differ_are_as_they_were(tmp_path: Path, folders: list[str]) -> None:
    cells = [cell(folders[0]), makers.cell(), makers.cell(method="frozen"), cell("org/model")]
    names = ["checkpoint.tones", "wav2vec2-random.tones", "wav2vec2-random.tones.frozen", "model.tones"]
    assert start(tmp_path, cells) == names


def test_a_cell_of_an_earlier_start_keeps_its_name_when_another_of_that_name_comes(
    tmp_path: Path, folders: list[str]
) -> None:
    assert start(tmp_path, [cell(folders[0])]) == ["checkpoint.tones"]
    first, second = start(tmp_path, [cell(name) for name in folders])
    assert first == "checkpoint.tones"
    assert second.startswith("checkpoint-")
    assert start(tmp_path, [cell(folders[1])]) == [second]


def test_a_folder_that_was_moved_is_named_and_no_other_backbone(tmp_path: Path, folders: list[str]) -> None:
    start(tmp_path, [cell(folders[0])])
    moved = makers.cell(backbone=folders[1], weights=cell(folders[0]).base.weights)
    with pytest.raises(InputError, match=r"checkpoint\.tones: backbone was run1/checkpoint, is run2/checkpoint"):
        start(tmp_path, [moved])


def test_a_known_name_is_not_taken_by_a_folder_and_hub_ids_are_told_apart(tmp_path: Path) -> None:
    known, folder = start(tmp_path, [makers.cell(backbone="hubert"), cell("./hubert")])
    assert known == "hubert.tones"
    assert folder.startswith("hubert-")
    one, other = start(tmp_path, [cell("one/model"), cell("other/model")])
    assert one != other


def test_one_folder_under_two_spellings_is_refused(tmp_path: Path, folders: list[str]) -> None:
    with pytest.raises(InputError, match=r"run1/checkpoint on tones by pairtune and \./run1/checkpoint on tones"):
        start(tmp_path, [cell(folders[0]), cell(f"./{folders[0]}")])


def test_a_dataset_that_is_called_like_a_method_makes_no_cell_of_two(tmp_path: Path) -> None:
    cells = [makers.cell(dataset="birds.frozen"), makers.cell(dataset="birds", method="frozen")]
    with pytest.raises(InputError, match=r"Two cells are called wav2vec2-random\.birds\.frozen"):
        start(tmp_path, cells)
