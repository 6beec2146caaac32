"""The view: what a person sees first when she opens a sweep in the MLflow UI.

The bare page opens in another mode on an empty table, with parents collapsed and parameters hidden. This writes a
shared view (as MLflow's own "share" button does) with a table of trials by score, parallel coordinates, learning curves
and the probe's learning rate against the score. The format is MLflow's internal one: pinned by its minor version in
pyproject.toml, checked in a browser.
"""

import json
from typing import Any

NAME = "trials"
TAG = f"mlflow.sharedViewState.{NAME}"
SCORE = "valid_score"
SEARCHED = ("batch_size", "chunk_seconds", "probe_lr")
WIDE, PAIRED = "wide", "paired"  # a section with one column, where axes need room, and one with two
COLUMNS = (
    f"metrics.`{SCORE}`",
    "metrics.`valid_uar`",
    "metrics.`test_score`",
    "params.`dataset`",
    "params.`backbone`",
    *(f"params.`{name}`" for name in SEARCHED),
    "tags.`outcome`",
)


def link(address: str, experiment: str) -> str:
    """The page of one sweep on an MLflow server."""
    query = f"workflowType=machine_learning&viewStateShareKey={NAME}&compareRunsMode=CHART"
    return f"{address.rstrip('/')}/#/experiments/{experiment}/runs?{query}"


def shared() -> str:
    """The shared view, as the tag's value."""
    facets = {
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": f"metrics.`{SCORE}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    page = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(),
        "compareRunSections": [_section(WIDE, "What matters", 1), _section(PAIRED, "Trials", 2)],
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
    return json.dumps(facets | page)


def _charts() -> list[dict[str, Any]]:
    parallel = {
        "type": "PARALLEL",
        "selectedParams": ["backbone", "dataset", *SEARCHED],
        "selectedMetrics": [SCORE],
        "showAllRuns": True,
    }
    rate = {
        "type": "SCATTER",
        "displayName": "Probe learning rate (log10)",
        "xaxis": {"key": "log10_probe_lr", "type": "METRIC"},
        "yaxis": {"key": SCORE, "type": "METRIC"},
    }
    best = {"type": "BAR", "displayName": "Validation score", "metricKey": SCORE}
    curves = [_curve("valid_knn", "Validation (kNN) by epoch"), _curve("loss", "Stage-1 loss by epoch")]
    charts = [(WIDE, parallel), *((PAIRED, chart) for chart in [*curves, rate, best])]
    shared = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return [
        {"uuid": f"chart-{number}", "metricSectionId": section, **shared, **chart}
        for number, (section, chart) in enumerate(charts)
    ]


def _curve(metric: str, title: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "displayName": title,
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
