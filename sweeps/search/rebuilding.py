"""Rebuilding: the studies of a sweep written anew from its journal, where Optuna's own database is damaged or gone.

All that a study holds was told to MLflow as well, and stands in the journal. Only a trial that was asked and had not
begun left nothing: its number, which names a trial everywhere, waits to be asked again. Where there are results under
that name its lines are lost: it is a failed trial then, of an unknown point.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.identity import TAG
from sweeps.request.cells import Space
from sweeps.search import ownership
from sweeps.search.studies import AGAIN, EARLY_SCORE, SCORE, WHY, distributions, open_storage, reason
from sweeps.tracking.journal import End, Event, Metrics, Outcome, Start

STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}


@dataclass
class Told:
    """What the journal says of one trial."""

    params: Mapping[str, str]
    early: dict[int, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    why: str = ""


def studies(database: Path, cells: Mapping[str, Mapping[str, Any]], sweep: str, events: Iterable[Event]) -> int:
    """Makes the database with a study per cell, by the cells' settings as `sweep.json` has them; `sweep`: the id.
    Returns how many trials are in it.
    """
    storage, found = open_storage(f"sqlite:///{database}"), _trials(events)
    results = database.parent / "trials"
    return sum(
        _study(storage, name, settings, sweep, _with_lost(found.get(name, {}), results, name))
        for name, settings in cells.items()
    )


def names(database: Path) -> set[str]:
    """The names of the studies in a database. It is only read: Optuna would make the tables of an empty one."""
    if not database.exists():
        return set()
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
        return {name for (name,) in opened.execute("SELECT study_name FROM studies")}
    return set()


def settings_of(database: Path) -> tuple[dict[str, Any], str | None]:
    """The settings of each cell, and the sweep's id, as the studies of its own database say them."""
    found: dict[str, Any] = {}
    ids: set[str | None] = set()
    if not names(database):
        return found, None
    for study in optuna.get_all_study_summaries(open_storage(f"sqlite:///{database}")):
        if ownership.SETTINGS in study.user_attrs:
            found[study.study_name] = study.user_attrs[ownership.SETTINGS]
            ids.add(study.user_attrs.get(TAG))
    return found, next(iter(ids)) if len(ids) == 1 else None


def _trials(events: Iterable[Event]) -> dict[str, dict[int, Told]]:
    """By cell and number."""
    by_key: dict[str, Told] = {}
    found: dict[str, dict[int, Told]] = {}
    for event in events:
        told = by_key.get(event.key)
        match event:
            case Start() if event.cell is not None and event.tags.get("kind") == "trial" and told is None:
                by_key[event.key] = told = Told(event.params)
                found.setdefault(event.cell, {})[int(event.key.rpartition("-")[2])] = told
            case Metrics() if told is not None:
                told.last |= event.metrics
                if EARLY_SCORE in event.metrics and SCORE not in event.metrics:
                    told.early.setdefault(event.step, event.metrics[EARLY_SCORE])
            case End() if told is not None:
                told.outcome, told.why = event.outcome, event.why or ""
    return found


def _with_lost(trials: Mapping[int, Told], results: Path, cell: str) -> dict[int, Told | None]:
    """Every number up to the last; None: that trial has not begun."""
    lost = Told({}, outcome=Outcome.FAILED)
    return {
        number: trials.get(number) or (lost if (results / f"{cell}-{number:04d}").exists() else None)
        for number in range(max(trials, default=-1) + 1)
    }


def _study(
    storage: BaseStorage, name: str, settings: Mapping[str, Any], sweep: str, trials: Mapping[int, Told | None]
) -> int:
    optuna.create_study(study_name=name, storage=storage, direction="maximize")
    number = storage.get_study_id_from_name(name)
    storage.set_study_user_attr(number, ownership.SETTINGS, dict(settings))
    storage.set_study_user_attr(number, TAG, sweep)
    space = distributions(Space.of(settings))
    failed: dict[str, int] = {}  # by point: no sampler draws one twice, so a later trial there repeats the failed one
    for trial, told in trials.items():
        made = _trial(told, space)
        point = str(sorted(made.params.items()))
        if made.params and point in failed:
            made.set_user_attr(AGAIN, failed.pop(point))
        if made.params and made.state == TrialState.FAIL:
            failed[point] = trial
        storage.create_new_trial(number, made)
    return sum(told is not None for told in trials.values())


def _trial(told: Told | None, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    if told is None:
        return create_trial(state=TrialState.WAITING)
    if not told.params:
        return create_trial(state=TrialState.FAIL)
    params = {name: _value(told.params[name], one) for name, one in space.items()}
    state = TrialState.RUNNING if told.outcome is None else STATES.get(told.outcome, TrialState.FAIL)
    if state == TrialState.COMPLETE and not told.last.keys() >= {SCORE, "cost"}:
        state = TrialState.FAIL  # its numbers stood in a damaged line
    # A trial that found its stage 1 has the curve of another one, which its study was not told.
    early = told.early if told.last.get("trained_seconds", 1.0) else {}
    value = {
        TrialState.COMPLETE: told.last.get(SCORE),
        TrialState.PRUNED: early[max(early)] if early else None,
    }.get(state)
    attributes: dict[TrialState, dict[str, Any]] = {TrialState.FAIL: {WHY: reason(told.why or "unknown")}}
    if state == TrialState.COMPLETE:
        attributes[state] = {"cost": told.last["cost"]}
    return create_trial(
        state=state,
        params=params,
        distributions=dict(space),
        value=value,
        intermediate_values=early,
        user_attrs=attributes.get(state, {}),
    )


def _value(text: str, distribution: BaseDistribution) -> Any:
    """A parameter as the study holds it: the journal has its text."""
    if isinstance(distribution, CategoricalDistribution):
        return next(choice for choice in distribution.choices if str(choice) == text)
    return int(text) if isinstance(distribution, IntDistribution) else float(text)
