"""Figures say what they are given: names and numbers are read back from their SVG text."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from audioconfit import figures


def texts(path: Path) -> list[str]:
    return re.findall(r">([^<>]+)</text>", path.read_text())


def test_small_confusion_matrix_shows_names_counts_and_accuracy(tmp_path: Path) -> None:
    figures.confusion(((8, 2), (1, 9)), ("anger", "joy & a$b$"), tmp_path / "confusion.svg")
    shown = texts(tmp_path / "confusion.svg")
    assert {"8", "2", "1", "9", "anger", "joy &amp; a$b$", "85.0% of 20 clips right"} <= set(shown)


def test_confusion_without_a_mistake_or_without_clips_of_a_class_is_drawn(tmp_path: Path) -> None:
    figures.confusion([[3, 0], [0, 0]], ("a", "b"), tmp_path / "confusion.svg")
    assert "100.0% of 3 clips right" in texts(tmp_path / "confusion.svg")
    figures.confusion(torch.eye(100).int().tolist(), [str(number) for number in range(100)], tmp_path / "many.svg")
    assert "100.0% of 100 clips right" in texts(tmp_path / "many.svg")


def test_confusion_of_50_classes_has_names_and_no_numbers(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(50)]
    figures.confusion((torch.eye(50).int() * 7).tolist(), names, tmp_path / "confusion.svg")
    shown = texts(tmp_path / "confusion.svg")
    assert all(shown.count(name) == 2 for name in names)
    assert "7" not in shown


def test_confusion_of_630_classes_names_the_worst_mistakes(tmp_path: Path) -> None:
    counts = 2 * torch.eye(630).int()
    counts[5, 600] = 6
    counts[7, 8] = 2
    figures.confusion(counts.tolist(), [f"speaker {number}" for number in range(630)], tmp_path / "confusion.svg")
    shown = texts(tmp_path / "confusion.svg")
    assert [text for text in shown if " as " in text] == ["speaker 5 as speaker 600", "speaker 7 as speaker 8"]


def test_confusion_of_another_size_than_its_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 classes need 3 rows and columns of counts, not \(2, 2\)"):
        figures.confusion([[1, 0], [0, 1]], ("a", "b", "c"), tmp_path / "confusion.png")


def test_png_is_an_image_and_nothing_else_is_left(tmp_path: Path) -> None:
    figures.confusion([[1, 0], [0, 1]], ("a", "b"), tmp_path / "new" / "confusion.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["confusion.png"]
    height, width, _ = imread(tmp_path / "new" / "confusion.png").shape
    assert min(height, width) > 500


def test_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        figures.confusion([[1, 0], [0, 1]], ("a", "b"), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_convergence_names_its_lines_and_counts_their_runs(tmp_path: Path) -> None:
    curves = {"PairTune": [[(1, 0.5), (2, 0.9)], [(1, 0.6), (3, 0.8)]], "FineTune": [[(1, 0.1), (2, 0.2)]]}
    figures.convergence(curves, tmp_path / "convergence.svg", title="TIMIT")
    assert {"PairTune (2 runs)", "FineTune", "TIMIT", "epoch", "validation accuracy"} <= set(
        texts(tmp_path / "convergence.svg")
    )


def test_convergence_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none"):
        figures.convergence({"PairTune": [[]]}, tmp_path / "convergence.png")


def test_separability_has_a_row_per_method_and_names_classes_and_captions(tmp_path: Path) -> None:
    one = figures.Map(torch.randn(4, 2), ("rain", "rain", "wind", "wind"), "silhouette 0.31")
    other = figures.Map(torch.randn(4, 2), ("cat", "dog", "cat", "dog"), "silhouette 0.77")
    figures.separability({"FineTune": [one], "PairTune": [one, other]}, tmp_path / "maps.svg")
    shown = texts(tmp_path / "maps.svg")
    assert {"FineTune", "PairTune", "rain", "wind", "cat", "dog", "silhouette 0.77"} <= set(shown)
    with pytest.raises(ValueError, match="there is none"):
        figures.separability({}, tmp_path / "maps.svg")
