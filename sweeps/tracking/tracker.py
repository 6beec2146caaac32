"""The tracker: every trial in MLflow, through the journal.

Each event goes to the journal first (microseconds); a thread drains the journal into MLflow. One writer, one
`log_batch` per run and turn. Everything is keyed by the trial's own key, so a restarted trial goes on in its run.
"""

import itertools
import math
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag

from audioconfit.errors import InputError
from sweeps import faults, identity
from sweeps.identity import Identity
from sweeps.tracking import mlflow_page, places, provenance, server
from sweeps.tracking.journal import End, Event, Journal, Metrics, Note, Outcome, Start
from sweeps.tracking.provenance import Data

RETRY_SECONDS = (1.0, 5.0, 30.0)  # between attempts, the last one for as long as the sweep runs
AWAY_SECONDS = 20.0  # of attempts in vain, after which nobody waits for MLflow any longer
# Events within a second go to MLflow together: a short trial's run is opened, filled and ended in three calls.
GATHER_SECONDS, GATHER_EVENTS = 1.0, 1000
LONGEST_VALUE, LONGEST_TAG = 6000, 4000  # characters of a parameter and of a tag in MLflow
BATCH_METRICS = 900  # MLflow takes 1000 metrics and 100 parameters a call
STATUS = {Outcome.FAILED: "FAILED", Outcome.DROPPED: "KILLED"}  # FINISHED otherwise


@dataclass
class TrackedRun:
    """An MLflow run that this sweep writes to, and the last step that it has. `method`: of a trial."""

    id: str
    last_step: int = -1
    method: str | None = None


@dataclass
class Batch:
    """What one turn logs to one run."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    last_step: int = -1


class Tracker:
    """Writes one sweep's runs: a parent per cell, a child per trial. Runs of other sweeps under the same name, of other
    storages that use the same MLflow, are left alone.
    """

    def __init__(
        self, uri: str, sweep: Identity, folder: Path, *, origin: Mapping[str, str] = {}, data: Iterable[Data] = ()
    ) -> None:
        """`origin`: command, version and commit; `data`: of the tasks. Both are shown on each new run."""
        self.uri, self.sweep, self.folder = uri, sweep, folder
        self._marks, self._data = provenance.tags(origin), {one.name: one for one in data}
        server.check_answer(uri)
        try:
            with faults.alone_with(uri):
                server.make_whole(uri)
                self.client = MlflowClient(tracking_uri=uri)
                self.experiment = self._experiment()
        except InputError:
            raise
        except Exception as error:  # a wrong scheme, a driver that is not installed, a database that refuses us
            why = faults.masked(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            raise InputError(f"--tracking-uri: MLflow at {faults.masked(uri)} cannot be used ({why}).") from error
        self.journal = Journal(folder)
        is_known = self._has_runs()
        if self.journal.applied and not is_known:
            self.journal.replay()
        # Then MLflow may have runs of keys that the journal knows nothing of, and each is looked for.
        self._has_forgotten = is_known and (self.journal.has_lost or not self.journal.applied)
        self.runs: dict[str, TrackedRun] = {}
        self.failing: str | None = None  # why MLflow takes nothing just now
        self.problems = [
            f"Line {number} of {self.journal.path} is damaged and was left out." for number in self.journal.damaged
        ]
        self._perhaps_there = set(self.journal.known)  # keys that MLflow may have a run of; others are not looked for
        self._events: queue.Queue[tuple[int, Event] | None] = queue.Queue()
        for item in self.journal.unapplied:
            self._events.put(item)
        self._hurried, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    @property
    def begun(self) -> set[str]:
        """The keys of runs that have begun and whose end was not reported."""
        return self.journal.begun

    @property
    def known(self) -> set[str]:
        """The keys of all runs that were ever reported, as far as the journal has its lines."""
        return self.journal.known

    # What the sweep reports.

    def start(
        self, key: str, *, cell: str, name: str, kind: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """A trial begins, or goes on."""
        shown = {param: str(value)[:LONGEST_VALUE] for param, value in params.items()}
        places = {name: value for name, value in shown.items() if name in ("seed", "fold")}
        self._write(Start(key, _now(), cell, name, shown, {"kind": kind, **places, **tags}))

    def metrics(self, key: str, step: int, metrics: Mapping[str, Any]) -> None:
        """The numbers of one step; values that are no numbers are passed over."""
        self._write(Metrics(key, _now(), step, _numbers(metrics)))

    def result(self, key: str, step: int, update: Mapping[str, Any]) -> None:
        """The numbers of a job's result, and of the epochs in its `curve`, which another trial trained."""
        for epoch in update.get("curve", ()):
            self.metrics(key, int(epoch["epoch"]), epoch)
        self.metrics(key, step, update)

    def end(self, key: str, outcome: Outcome, *, why: str | None = None, files: Path | None = None) -> None:
        """A trial ended. The files of the folder `files` become the run's artefacts."""
        self._write(End(key, _now(), outcome, why, str(files) if files else None))

    def page(self, searched: Mapping[str, Mapping[str, bool]]) -> None:
        """Writes the experiment's views and note; `searched` as in `mlflow_page.tags`. What MLflow does not take is one
        of the `problems`.
        """
        try:
            for tag, value in mlflow_page.tags(self.experiment, searched).items():
                self.client.set_experiment_tag(self.experiment, tag, value)
        except Exception as error:  # whatever a server or a network can do: the runs are there without it
            self.problems.append(f"the page: {type(error).__name__}: {error}")

    def cell(self, name: str, *, tags: Mapping[str, str]) -> None:
        """A cell's run, opened before those of its trials."""
        self._write(Start(_parent(name), _now(), None, name, {}, {"kind": "cell", **tags}))

    def end_cell(
        self, name: str, outcome: Outcome, metrics: Mapping[str, Any], *, files: Path | None = None, note: str = ""
    ) -> None:
        """The cell's own numbers, and how it ended. The files of the folder `files` become its artefacts; `note`, in
        Markdown, its description.
        """
        key, now = _parent(name), _now()
        self._write(Note(key, now, note))
        self._write(Metrics(key, now, 0, _numbers(metrics)))
        self._write(End(key, now, outcome, files=str(files) if files else None))

    def attach(self, cell: str, file: Path) -> None:
        """Gives a cell's run a file more. What MLflow does not take is one of the `problems`."""
        if not self.flush():
            return
        try:
            self.client.log_artifact(self.run_id(_parent(cell)), str(file))
        except Exception as error:  # whatever a server or a network can do: the file stays where it is
            self.problems.append(faults.masked(f"{file.name}: {type(error).__name__}: {error}"))

    def flush(self, timeout_seconds: float = 120.0) -> bool:
        """Waits until MLflow has everything that was reported so far. False: it has not, and takes nothing."""
        began = time.monotonic()
        self._hurried.set()
        try:
            while self.journal.applied < self.journal.written:
                spent = time.monotonic() - began
                if spent > timeout_seconds or (self.failing and spent > AWAY_SECONDS) or not self._thread.is_alive():
                    return False
                time.sleep(0.05)
            return True
        finally:
            self._hurried.clear()

    def run_id(self, key: str) -> str:
        """The MLflow run of a trial that was reported and flushed."""
        if key not in self.runs:
            found = self._found(key)
            if found is None:
                why = "; ".join(self.problems) or "it was never reported"
                raise RuntimeError(f"MLflow at {faults.masked(self.uri)} has no run for {key}: {why}")
            return str(found.info.run_id)
        return self.runs[key].id

    def close(self, timeout_seconds: float = 120.0) -> None:
        """Waits until MLflow has what the journal has, or refuses it once more. The next start replays what it did not
        take, which is then one of the `problems`.
        """
        self._hurried.set()
        self._closing.set()
        self._events.put(None)
        self._thread.join(timeout_seconds)
        if self.failing is not None:
            self.problems.append(self.failing)
        elif self._thread.is_alive():
            self.problems.append(f"It answers too slowly: {self.journal.written - self.journal.applied} events wait.")
        self.journal.close()

    def _write(self, event: Event) -> None:
        self.journal.write(event, lambda number, written: self._events.put((number, written)))

    # The thread.

    def _drain(self) -> None:
        closing = False
        while not closing:
            turn = [self._events.get()]
            self._hurried.wait(GATHER_SECONDS)
            while not self._events.empty() and len(turn) < GATHER_EVENTS:
                turn.append(self._events.get())
            closing = None in turn
            items = [item for item in turn if item is not None]
            if items and not self._deliver([event for _, event in items], applied=items[-1][0] + 1):
                return  # the journal keeps the rest

    def _deliver(self, events: Sequence[Event], applied: int) -> bool:
        """Tries until MLflow has the events; once the sweep closes, only once more."""
        for attempt in itertools.count():
            is_last = self._closing.is_set()
            try:
                self._apply(events)
                self.journal.mark_applied(applied)
                self.failing = None
                return True
            except Exception as error:  # whatever a server or a network can do: tried again, reported at the end
                self.failing = faults.masked(f"{type(error).__name__}: {error}")
                self._perhaps_there.update(event.key for event in events)
            if is_last:
                break
            self._pause(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
        return False

    def _pause(self, seconds: float) -> None:
        """Between two attempts: a second where somebody waits for them, none where the sweep closes."""
        began = time.monotonic()
        while not self._closing.wait(0.1):
            if time.monotonic() - began > (min(seconds, 1.0) if self._hurried.is_set() else seconds):
                return

    def _apply(self, events: Iterable[Event]) -> None:
        """One turn: the events of each run in order, its parameters, tags and metrics in one batch."""
        runs: dict[str, list[Event]] = {}
        for event in events:
            runs.setdefault(event.key, []).append(event)
        for key, mine in runs.items():
            run = self._open(key, mine[0])
            self._log(run, _batch(mine, after=run.last_step, method=run.method))
            for event in mine:
                if isinstance(event, End):
                    self._end(run, event)

    def _open(self, key: str, event: Event) -> TrackedRun:
        """The run of a key: known, found in MLflow (a restarted trial goes on in it), or created."""
        if key in self.runs:
            return self.runs[key]
        found = self._found(key) if self._has_forgotten or key in self._perhaps_there else None
        if found is not None:
            self.client.update_run(found.info.run_id, status="RUNNING")
            if identity.TAG not in found.data.tags:  # from now on it is nobody else's
                self.client.set_tag(found.info.run_id, identity.TAG, self.sweep.id)
            self.runs[key] = TrackedRun(found.info.run_id, self._last_step(found), _method(found.data.tags))
            return self.runs[key]
        tags, name = {"key": key, "sweep": self.sweep.name, identity.TAG: self.sweep.id, **self._marks}, key
        method = None
        if isinstance(event, Start):
            name, method = event.name, _method(event.tags)
            if event.cell:
                parent = Start(_parent(event.cell), event.time, None, event.cell)
                tags["mlflow.parentRunId"] = self._open(parent.key, parent).id
        run = self.client.create_run(self.experiment, run_name=name, tags=tags, start_time=event.time)
        if isinstance(event, Start) and event.tags.get("dataset") in self._data:
            data = self._data[event.tags["dataset"]].as_input()
            self.client.log_inputs(run.info.run_id, [data])
        self.runs[key] = TrackedRun(run.info.run_id, method=method)
        return self.runs[key]

    def _has_runs(self) -> bool:
        """Whether MLflow has any run of this sweep: its database may have been removed, or the runs deleted."""
        mine = "" if self.sweep.early else f"tags.{identity.TAG} = '{self.sweep.id}'"
        return bool(self.client.search_runs([self.experiment], mine, max_results=1))

    def _found(self, key: str) -> Run | None:
        """The sweep's run of that key. One that bears its id comes before one that bears none."""
        found = self.client.search_runs([self.experiment], f"tags.key = '{key}'")
        mine = [run for run in found if self.sweep.owns(run.data.tags)]
        return min(mine, key=lambda run: identity.TAG not in run.data.tags, default=None)

    def _log(self, run: TrackedRun, batch: Batch) -> None:
        for begin in range(0, max(1, len(batch.metrics)), BATCH_METRICS):
            self.client.log_batch(
                run.id,
                metrics=batch.metrics[begin : begin + BATCH_METRICS],
                params=[Param(name, value) for name, value in batch.params.items()],
                tags=[RunTag(name, value) for name, value in batch.tags.items()],
            )
        run.last_step = batch.last_step  # only now: a call that failed is made again with the same steps

    def _end(self, run: TrackedRun, event: End) -> None:
        if event.files and Path(event.files).is_dir():
            self.client.log_artifacts(run.id, event.files)
        self.client.set_terminated(run.id, STATUS.get(event.outcome, "FINISHED"), end_time=event.time)

    def _last_step(self, run: Run) -> int:
        """A trial that was interrupted reports its steps again; those that MLflow has are passed over."""
        history = (self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
        return max((point.step for points in history for point in points), default=-1)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep.name)
        if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
            raise InputError(
                f"The experiment {self.sweep.name!r} was deleted in MLflow at {faults.masked(self.uri)}. Restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or choose another --name."
            )
        local = not self.uri.startswith("http")
        if found is not None:
            if local:
                places.check(found.artifact_location, self.folder, self.sweep)
            return str(found.experiment_id)
        # A database alone has nowhere to put artefacts; a server proxies them and must be left to choose.
        location = places.of(self.folder) if local else None
        experiment = self.client.create_experiment(self.sweep.name, artifact_location=location)
        return str(experiment)


def _batch(events: Iterable[Event], *, after: int, method: str | None) -> Batch:
    """What the events log; of their steps only those past `after`, which the run has already, and step 0."""
    batch = Batch(last_step=after)
    for event in events:
        match event:
            case Start():
                batch.params |= event.params
                batch.tags |= event.tags
            case Note() if event.note:
                batch.tags[mlflow_page.NOTE] = event.note
            case End():
                batch.tags["outcome"] = event.outcome.value
                if event.why:
                    batch.tags["why"] = event.why[:LONGEST_TAG]
                    batch.tags[mlflow_page.NOTE] = f"**{event.outcome}**\n\n```text\n{event.why[:LONGEST_TAG]}\n```"
            case Metrics() if event.step > batch.last_step or event.step == 0:
                shown = mlflow_page.shown(event.metrics, method)
                batch.metrics += [Metric(name, value, event.time, event.step) for name, value in shown.items()]
                batch.last_step = max(batch.last_step, event.step)
    return batch


def _method(tags: Mapping[str, str]) -> str | None:
    """Of a trial, by its run's tags."""
    return tags.get("method") if tags.get("kind") == mlflow_page.TRIALS.kind else None


def _now() -> int:
    return int(time.time() * 1000)


def _parent(cell: str) -> str:
    return f"cell:{cell}"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
