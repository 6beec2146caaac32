"""The table at the end of a sweep says what a score should not be taken for."""

from dataclasses import dataclass, replace
from pathlib import Path

import makers
import pytest
from rich.console import Console

from sweeps.outcome import references, registry, selection
from sweeps.outcome.race import Finalist, Race
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.request import searched
from sweeps.request.cells import Cell
from sweeps.terminal import report
from sweeps.trial.assignment import Assignment


@dataclass(frozen=True)
class Folded:
    """What the note reads of a task."""

    dataset: str
    folds: int


def test_a_dataset_whose_test_clips_the_choice_has_seen_is_marked_and_explained() -> None:
    console = Console(record=True, width=80, quiet=False)
    cells = [makers.cell(), makers.cell(dataset="esc50")]
    report.show_results(cells, [], [], console, seen=["esc50"])
    report.show_seen([Folded("tones", 1), Folded("esc50", 5)], console)  # type: ignore[list-item]
    said = console.export_text().splitlines()
    assert [line.split()[:2] for line in said if line.startswith(("tones", "esc50"))] == [
        ["tones", "pairtune"],
        ["esc50", "†"],
    ]
    assert [line for line in said if line.startswith("† esc50: ")]
    assert not [line for line in said if line.startswith("† tones")]


def confirmed(cell: Cell, *scores: float, metric: str = "accuracy") -> Candidate:
    """The cell's recipe over as many seeds as scores, each with an interval of a tenth either way."""
    runs = tuple(
        Confirmed(
            Assignment(cell.base.model_copy(update={"seed": seed}), Path(), Path(), key=f"{cell.name}-{seed}"),
            {
                **{"valid_score": 0.5, "test_score": score, "test_uar": 0.25},
                **{f"test_{metric}_low": score - 0.1, f"test_{metric}_high": score + 0.1},
                **({} if metric == "accuracy" else {f"test_{metric}": score}),
            },
        )
        for seed, score in enumerate(scores)
    )
    return Candidate(cell.name, runs, cost=1.0)


def printed(cells: list[Cell], found: list[Candidate], width: int = 80) -> list[str]:
    console = Console(record=True, width=width, quiet=False)
    report.show_results(cells, found, [], console)
    return console.export_text().splitlines()


def test_a_single_run_shows_its_interval_and_several_their_deviation() -> None:
    cells = [makers.cell(), makers.cell(method="frozen")]
    said = printed(cells, [confirmed(cells[0], 0.6), confirmed(cells[1], 0.5, 0.7)])
    assert [line for line in said if "60.00 (50–70) 25.0" in line]
    assert [line for line in said if "60.00 ± 14.14 25.0" in line]
    assert said[-1].startswith(
        "In per cent, ± the standard deviation over 2 seeds, in brackets the 95 per cent interval"
    )


def test_a_table_too_wide_for_the_terminal_has_a_row_per_cell_and_cuts_no_name() -> None:
    names = ["wav2vec2-a-rather-long-name", "hubert-a-rather-long-name", "wavlm-a-rather-long-name"]
    cells = [makers.cell(backbone=name) for name in names]
    found = [confirmed(cell, 0.5, 0.6) for cell in cells]
    for width, rows in ((80, 3), (200, 1)):
        said = printed(cells, found, width)
        assert sum(line.startswith("tones") for line in said) == rows
        assert all(any(name in line for line in said) for name in names)
        assert "…" not in "".join(said)


def test_label_sets_are_titled_by_mean_average_precision_with_its_own_interval() -> None:
    cell = makers.cell()
    found = confirmed(cell, 0.8, metric="mean_average_precision")
    assert printed([cell], [found])[0].startswith("Test: mean average precision, and UAR")
    said = selection.explain(found, [found])
    assert "mean average precision 0.8000. The run that is handed over alone: 0.700 to 0.900" in said
    assert "±" not in said


def test_settings_that_were_searched_too_stand_with_the_winner_and_in_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    further = searched.parse(["temperature=0.05,0.1", "freeze=null,conv"])
    base = makers.cell(temperature=0.05, freeze="conv")
    cell = replace(base, space=replace(base.space, further=further))
    console = Console(record=True, width=80, quiet=False)
    won = registry.Registered("audioconfit-tones", "1", "models:/audioconfit-tones@champion", "It won.", cell.name)
    report.show_results([cell], [confirmed(cell, 0.6)], [won], console)
    assert "probe rate 0.003, temperature 0.05, freeze conv" in console.export_text()
    monkeypatch.setattr(Finalist, "scores", [0.5, 0.7])
    params = {"batch_size": 8, "chunk_seconds": 0.5, "probe_lr": 0.01, "temperature": 0.1, "freeze": None}
    assignment = confirmed(cell, 0.5).runs[0].assignment
    raced = [Finalist(cell, params, 0.5, 1.0, folds=[assignment, assignment])]
    report.show_races({"tones": Race(raced, 2, "map")}, console)
    said = console.export_text()
    assert "Race on tones (mean average precision)" in said
    assert "further" in said
    assert "temperature 0.1, freeze None" in " ".join(said.split())


@pytest.mark.parametrize(("number", "said"), [(1, "1 cell"), (2, "2 cells")])
def test_one_is_no_plural(number: int, said: str) -> None:
    assert report._count(number, "cell") == said


def test_published_rows_stand_with_their_protocol_and_what_both_sides_share() -> None:
    note = references.note("emodb")
    assert (
        "| EmoBox leaderboard | five folds, weighted accuracy of a small MLP | all ten speakers | 83.1 | 87.7 | 87.1 |"
        in note
    )
    assert references.note("tones") == ""
    for row in references.PUBLISHED:
        assert row.source in references.note(row.dataset)
        assert row.shared in references.note(row.dataset)
