"""A sweep from Python, in a notebook or a script: `sweeps.run(datasets="emodb", trials=8)`, in the command's words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from audioconfit.classifier import Classifier
from sweeps import sweep
from sweeps.outcome import handover
from sweeps.report import record
from sweeps.report.record import Record
from sweeps.report.values import SEARCHED
from sweeps.request import flags

COLUMNS = ("dataset", "backbone", "method", "metric", "test", "sd", "uar", "runs", "champion", *SEARCHED)


class Champions(Mapping[str, Classifier]):
    """The best probe of each dataset, loaded when it is asked for."""

    def __init__(self, folder: Path, cells: Mapping[str, str]) -> None:
        self.folder, self.cells = folder, cells

    def __getitem__(self, dataset: str) -> Classifier:
        return handover.load(str(self.folder / self.cells[dataset]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True)
class Found:
    """What a sweep found. `table` has a row per cell; of one without a result only its names."""

    folder: Path
    table: pd.DataFrame
    champions: Champions

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = self.table.to_html(index=False, float_format="{:.4f}".format, na_rep="")
        return shown


def run(**words: Any) -> Found:
    """Runs a sweep to its end, or goes on with the one of that name.

    Args:
        words: the flags of `python sweeps/grid.py` with underscores, as text, numbers or lists:
            `datasets="emodb"`, `batch_sizes=[16, 32]`, `set={"layers": "all"}`.

    Raises:
        InputError: a word that cannot be used, with its value and the way out, before anything runs.
        Halted, Interrupted: the sweep could not go on, or Ctrl-C; the same call goes on.
    """
    plan = flags.of(words)
    sweep.start(plan, Console())
    found = record.read(plan.folder)
    best = {dataset: rivals[0].cell for dataset in found.datasets if (rivals := found.rivals(dataset))}
    return Found(plan.folder, _table(found, set(best.values())), Champions(plan.folder, best))


def _table(found: Record, best: set[str]) -> pd.DataFrame:
    confirmed = {one.cell: one for one in found.candidates}
    rows = []
    for name, cell in found.cells.items():
        row: dict[str, Any] = {"dataset": cell["dataset"], "backbone": cell["backbone"], "method": cell["method"]}
        if one := confirmed.get(name):
            mean, deviation = one.test
            uar = sum(run.metrics["test_uar"] for run in one.runs) / len(one.runs)
            row |= {"metric": one.metric, "test": mean, "sd": deviation if len(one.runs) > 1 else None, "uar": uar}
            row |= {"runs": len(one.runs), "champion": name in best}
            row |= {field: getattr(one.best_run.recipe, field) for field in SEARCHED}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))
