"""The page: what a person sees first when she opens a sweep in the MLflow UI.

MLflow 3.17 opens every experiment in its GenAI mode, on an empty overview: only the link or the browser's own switch
(kept in its local storage) choose "Model training", and no tag of the experiment is asked. So the link is everywhere:
at the end of a sweep, in `sweeps/ui.py`, in the experiment's note.

The link opens a shared view (as MLflow's own "share" button writes them): one each for trials, finalists,
confirmations and cells, with a table of its own and charts. Axes and titles show metrics by their names and cut words
to nine letters, so curves have a metric per method and no axis has words. The format is MLflow's internal one: pinned
by its minor version in pyproject.toml, checked in a browser.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORE = "valid_score"
SEARCHED = ("batch_size", "chunk_seconds", "probe_lr")
METHODS = {"pairtune": "PairTune", "finetune": "FineTune", "frozen": "Frozen"}
BY_METHOD = ("valid_knn", "loss", SCORE)  # of trials: a metric per method beside the common one
IMPORTANCE = "importance_{setting}"  # metrics of a cell: the share of the spread of scores
WIDE, PAIRED = 1, 2  # charts side by side
NOTE = "mlflow.note.content"

Charts = list[tuple[str, int, list[dict[str, Any]]]]  # sections: name, columns, charts


@dataclass(frozen=True)
class View:
    """A shared view: which runs, by what, with which columns."""

    kind: str
    title: str
    order: str
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}s"

    @property
    def tag(self) -> str:
        """Of the experiment."""
        return f"mlflow.sharedViewState.{self.name}"


_CELL = ("params.`dataset`", "params.`backbone`", "tags.`method`")
_SETTINGS = tuple(f"params.`{name}`" for name in SEARCHED)
TRIALS = View(
    "trial", "trials", SCORE, (f"metrics.`{SCORE}`", "metrics.`valid_uar`", *_CELL, *_SETTINGS, "tags.`outcome`")
)
FINALISTS = View("finalist", "finalists", SCORE, (f"metrics.`{SCORE}`", *_CELL, "params.`inner_fold`", *_SETTINGS))
CONFIRMATIONS = View(
    "confirmation",
    "confirmations",
    "test_score",
    ("metrics.`test_score`", "metrics.`test_uar`", f"metrics.`{SCORE}`", *_CELL, "params.`seed`", "params.`fold`"),
)
CELLS = View("cell", "cells", "test_score", ("metrics.`test_score`", f"metrics.`{SCORE}`", "tags.`outcome`"))
VIEWS = (TRIALS, FINALISTS, CONFIRMATIONS, CELLS)


def link(address: str, experiment: str, view: View = TRIALS) -> str:
    """The page of one sweep on an MLflow server; of "" relative to any page of the server."""
    query = f"workflowType=machine_learning&viewStateShareKey={view.name}&compareRunsMode=CHART"
    return f"{address.rstrip('/')}{'/' if address else ''}#/experiments/{experiment}/runs?{query}"


def run_link(experiment: str, run: str) -> str:
    """A run's page, relative to any page of the server."""
    return f"#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def artefact(run: str, path: str) -> str:
    """An artefact of a run, relative to any page of the server: for pictures in notes."""
    return f"get-artifact?path={path}&run_uuid={run}"


def note(experiment: str) -> str:
    """The experiment's note, in Markdown. MLflow folds it to its first line, so that has the links."""
    links = [f"[{view.title}]({link('', experiment, view)})" for view in VIEWS]
    return (
        f"Look at: {' | '.join(links)}\n\n"
        "MLflow opens an experiment in its GenAI mode, where nothing of a sweep is to be seen: choose *Model training* "
        "above left (the browser remembers it), or one of these links."
    )


def tags(experiment: str, searched: Mapping[str, Mapping[str, bool]]) -> dict[str, str]:
    """What makes the experiment's page. `searched`: for each method of the sweep what it searches beside SEARCHED, and
    whether by its logarithm: of such numbers runs have `log10_NAME`, for the page's axes are linear.
    """
    names = tuple(dict.fromkeys((*SEARCHED, *(name for further in searched.values() for name in further))))
    charts = {
        TRIALS: _of_trials(searched, names),
        FINALISTS: [("Finalists on inner folds", WIDE, [_bar(SCORE)])],
        CONFIRMATIONS: _of_confirmations(),
        CELLS: _of_cells(names),
    }
    more = {view: tuple(f"params.`{name}`" for name in names[len(SEARCHED) :]) for view in (TRIALS, FINALISTS)}
    return {view.tag: json.dumps(_shared(view, sections, more.get(view, ()))) for view, sections in charts.items()} | {
        NOTE: note(experiment)
    }


def shown(metrics: Mapping[str, float], method: str | None) -> dict[str, float]:
    """A step's numbers as the page has them: without the epoch, which is the step, and of trials those of BY_METHOD
    under a name per method, too.
    """
    own = {f"{name}_{method}": metrics[name] for name in BY_METHOD if method and name in metrics}
    return {name: value for name, value in metrics.items() if name != "epoch"} | own


def _of_trials(searched: Mapping[str, Mapping[str, bool]], names: Sequence[str]) -> Charts:
    parallel = {
        "type": "PARALLEL",
        "selectedParams": list(names),
        "selectedMetrics": [SCORE],
        "showAllRuns": True,
    }
    sections: Charts = [("What matters", WIDE, [parallel])]
    for method, further in searched.items():
        curves = [_curve(f"{name}_{method}") for name in ("valid_knn", "loss")]
        score = f"{SCORE}_{method}"
        scores = [_by_setting(name, score, by_log) for name, by_log in further.items() if name not in SEARCHED]
        charts = [*curves, _scatter("log10_probe_lr", score), _bar(score), *scores]
        sections.append((f"Trials by {METHODS.get(method, method)}", PAIRED, charts))
    return sections


def _of_confirmations() -> Charts:
    charts = [_bar("test_score"), _bar("test_uar"), _scatter(SCORE, "test_score")]
    return [("Confirmations on test", PAIRED, charts)]


def _of_cells(names: Sequence[str]) -> Charts:
    scores = [_bar("test_score"), _bar(SCORE)]
    shares = [_bar(IMPORTANCE.format(setting=setting)) for setting in names]
    return [("Cells", PAIRED, scores), ("What matters: importance by setting", PAIRED, shares)]


def _shared(view: View, sections: Charts, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The view as MLflow's page reads it, with further `columns`."""
    facets = {
        "searchFilter": f"tags.kind = '{view.kind}'",
        "orderByKey": f"metrics.`{view.order}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    placed = [(f"section-{number}", chart) for number, (_, _, charts) in enumerate(sections) for chart in charts]
    shared = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    page = {
        "selectedColumns": [*view.columns, *columns],
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {"uuid": f"chart-{number}", "metricSectionId": section, **shared, **chart}
            for number, (section, chart) in enumerate(placed)
        ],
        "compareRunSections": [
            _section(f"section-{number}", name, columns) for number, (name, columns, _) in enumerate(sections)
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    return facets | page


def _bar(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": metric}


def _by_setting(name: str, up: str, by_log: bool) -> dict[str, Any]:
    """Scores by a searched number; of words the axis has their names."""
    if by_log:
        return _scatter(f"log10_{name}", up)
    return {"type": "SCATTER", "xaxis": {"key": name, "type": "PARAM"}, "yaxis": {"key": up, "type": "METRIC"}}


def _scatter(across: str, up: str) -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": {"key": across, "type": "METRIC"}, "yaxis": {"key": up, "type": "METRIC"}}


def _curve(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "xAxisKey": "step",
        "range": {},
    }


def _section(uuid: str, name: str, columns: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": 360,
    }
