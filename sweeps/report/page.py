"""The page: a whole report as one HTML file that needs no network; its pictures are inside, and all words escaped."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sweeps.report.pictures import Picture
from sweeps.report.record import Record
from sweeps.report.values import Table
from sweeps.report.writers import shown

TEMPLATE = Path(__file__).with_name("page.html.jinja")
METHOD = (
    "PairTune fine-tunes the backbone with a supervised contrastive loss on mined hard pairs of random chunks; "
    "FineTune with cross-entropy; frozen not at all. The encoder is then frozen, and a linear probe is fitted to the "
    "embeddings of whole clips.",
    "The search (Optuna) scores each recipe on one validation side. The best recipes race on further inner folds of "
    "the train and valid clips, whole speakers or sources at a time; the first of the race is the champion.",
    "Each cell's best recipe is confirmed on test over seeds or official folds. Test is read there and nowhere else, "
    "after the choice; where a corpus has several test folds, recipes were chosen on the development clips of fold 0, "
    "which other folds test.",
    "Intervals are 95 per cent, by resampling speakers or sources where they are known and clips otherwise (1,000 "
    "resamples); Wilson's where every clip is right or wrong.",
)


def html(
    records: Sequence[Record],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    *,
    made: Mapping[str, str],
    origins: Mapping[str, Mapping[str, str]],
) -> str:
    """`made`: what made the report; `origins`: by sweep, what started it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    return environment.from_string(TEMPLATE.read_text()).render(
        title=" and ".join(record.name for record in records),
        missing={record.name: said for record in records if (said := record.missing())},
        tables=tables,
        numeric={table.name: [_is_numeric(table, at) for at in range(len(table.columns))] for table in tables},
        pictures=[(one, base64.b64encode(one.path.read_bytes()).decode()) for one in pictures],
        method=METHOD,
        choices={record.name: choices(record) for record in records},
        made=made,
        origins=origins,
    )


def _is_numeric(table: Table, at: int) -> bool:
    values = [row[at] for row in table.rows if row[at] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def choices(record: Record) -> list[tuple[str, str]]:
    """The numbers of the recipe that all cells share, and the values of those that differ."""
    passed = ("fingerprint", "dataset", "backbone", "method")
    names = dict.fromkeys(name for cell in record.cells.values() for name in cell if name not in passed)
    said = {name: dict.fromkeys(_said(cell.get(name)) for cell in record.cells.values()) for name in names}
    return [(name, "; ".join(values)) for name, values in said.items() if any(values)]


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{each:g}" if isinstance(each, int | float) else str(each) for each in value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
