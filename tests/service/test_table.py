"""The table at the end of a sweep says what a score should not be taken for."""

from dataclasses import dataclass

import makers
from rich.console import Console

from sweeps.outcome import references
from sweeps.terminal import report


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
