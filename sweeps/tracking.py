"""Tracking: every trial in MLflow. The only importer of mlflow.

Each event goes to an append-only journal first (microseconds), and a thread drains the journal into MLflow and
remembers how far it came: an outage or a killed driver loses nothing, and a restart replays the rest. One writer, one
`log_batch` per run and turn. All is keyed by the trial's own key, so a restarted trial goes on in the run that it had.
"""

import errno
import json
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from sweeps import storage, view

RETRY_SECONDS = (0, 1, 5, 30)
# What comes within a second goes to MLflow together: a short trial's run is opened, filled and ended in three calls.
GATHER_SECONDS, GATHER_EVENTS = 1.0, 1000
LONGEST_VALUE = 6000  # of a parameter in MLflow


@dataclass
class Tracked:
    """An MLflow run that this sweep writes to, and the last step that it has."""

    id: str
    last_step: int = -1


class Tracker:
    """Writes one sweep's runs: a parent per cell, a child per trial."""

    def __init__(self, uri: str, sweep: str, folder: Path) -> None:
        self.uri, self.sweep, self.folder = uri, sweep, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.journal, self.mark = folder / "events.jsonl", folder / "events.applied"
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self._experiment()
        self.runs: dict[str, Tracked] = {}
        self.events: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue()
        self.problems: list[str] = []
        self.writing = threading.Lock()
        self.begun: set[str] = set()  # keys whose end the journal has not got
        self.there: set[str] = set()  # keys that MLflow may have a run of; others need not be looked for
        self.hurried = threading.Event()
        self.applied = int(self.mark.read_text()) if self.mark.exists() else 0
        self.written = self._replay()
        self.file = self.journal.open("ab", buffering=0)
        self.thread = threading.Thread(target=self._drain, daemon=True)
        self.thread.start()

    # What the sweep says.

    def start(
        self, key: str, *, cell: str, name: str, kind: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """A trial begins, or goes on."""
        shown = {param: str(value)[:LONGEST_VALUE] for param, value in params.items()}
        self._write("start", key, cell=cell, name=name, params=shown, tags={"kind": kind, **tags})

    def metrics(self, key: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Numbers of one step; whatever is no number is passed over."""
        self._write("metrics", key, step=step, metrics=_numbers(metrics))

    def end(self, key: str, outcome: str, *, why: str | None = None, files: Path | None = None) -> None:
        """A trial ended: complete, pruned, failed, or dropped half-way. The files of the folder `files` become the
        run's artefacts.
        """
        self._write("end", key, outcome=outcome, why=why, files=str(files) if files else None)

    def cell(self, name: str, *, tags: Mapping[str, str]) -> None:
        """A cell's parent run, opened before its trials."""
        self._write("start", _parent(name), cell=None, name=name, params={}, tags={"kind": "cell", **tags})

    def end_cell(self, name: str, outcome: str, metrics: Mapping[str, Any], note: str = "") -> None:
        self._write("metrics", _parent(name), step=0, metrics=_numbers(metrics))
        self._write("note", _parent(name), note=note)
        self._write("end", _parent(name), outcome=outcome, why=None, files=None)

    def flush(self, timeout_seconds: float = 120.0) -> None:
        """Waits until MLflow has all that was said so far."""
        deadline = time.monotonic() + timeout_seconds
        self.hurried.set()
        while self.applied < self.written and not self.problems and time.monotonic() < deadline:
            time.sleep(0.05)
        self.hurried.clear()

    def run_id(self, key: str) -> str:
        """The MLflow run of a trial that was told and flushed."""
        if key not in self.runs:
            found = self._found(key)
            if found is None:
                raise RuntimeError(
                    f"MLflow at {self.uri} has no run for {key}: {'; '.join(self.problems) or 'not told'}"
                )
            return str(found.info.run_id)
        return self.runs[key].id

    def close(self, timeout_seconds: float = 120.0) -> None:
        """Waits until MLflow has what the journal has. What it did not take is replayed at the next start."""
        self.hurried.set()
        self.events.put(None)
        self.thread.join(timeout_seconds)
        self.file.close()

    # The journal.

    def _write(self, kind: str, key: str, **what: Any) -> None:
        event = {"kind": kind, "key": key, "time": int(time.time() * 1000), **what}
        with self.writing:  # the confirmation tells from several threads, and the mark counts lines
            self._append(json.dumps(event).encode() + b"\n")
            self.events.put((self.written, event))
            self.written += 1
            self._note(event)

    def _append(self, line: bytes) -> None:
        """The whole line or nothing of it, where the disk is full."""
        end = self.journal.stat().st_size
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.journal))
        except OSError:
            os.truncate(self.journal, end)
            raise

    def _note(self, event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            self.begun.add(event["key"])
        elif event["kind"] == "end":
            self.begun.discard(event["key"])

    def _replay(self) -> int:
        """Queues what MLflow has not got; cuts off a line that a kill left half written. Returns their number."""
        if not self.journal.exists():
            return 0
        content = self.journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.journal, whole)
        events = [json.loads(line) for line in content[:whole].splitlines()]
        for number, event in enumerate(events):
            self._note(event)
            self.there.add(event["key"])
            if number >= self.applied:
                self.events.put((number, event))
        return len(events)

    def _drain(self) -> None:
        closing = False
        while not closing:
            turn = [self.events.get()]
            self.hurried.wait(GATHER_SECONDS)
            while not self.events.empty() and len(turn) < GATHER_EVENTS:
                turn.append(self.events.get())
            closing = None in turn
            events = [item for item in turn if item is not None]
            if events and not self._deliver([event for _, event in events], applied=events[-1][0] + 1):
                return  # the journal keeps the rest

    def _deliver(self, events: list[dict[str, Any]], applied: int) -> bool:
        for seconds in RETRY_SECONDS:
            time.sleep(seconds)
            try:
                self._apply(events)
                self._remember(applied)
                return True
            except Exception as error:  # whatever a server or a network can do: tried again, then told at the end
                problem = f"{type(error).__name__}: {error}"
                self.there.update(event["key"] for event in events)
                if storage.is_full(error):  # time alone makes no room
                    break
        self.problems.append(problem)
        return False

    def _remember(self, applied: int) -> None:
        self.applied = applied
        temporary = self.mark.with_suffix(".temporary")
        temporary.write_text(str(applied))
        temporary.replace(self.mark)

    # MLflow.

    def _apply(self, events: list[dict[str, Any]]) -> None:
        """One turn: the events of each run in order, its parameters, tags and metrics in one batch."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            runs.setdefault(event["key"], []).append(event)
        for key, mine in runs.items():
            tracked = self._open(key, mine[0])
            self._log(tracked, mine)
            for event in mine:
                if event["kind"] == "end":
                    self._end(tracked, event)

    def _open(self, key: str, event: dict[str, Any]) -> Tracked:
        """The run of a key: known, found in MLflow (a restarted trial goes on in it), or created."""
        if key in self.runs:
            return self.runs[key]
        found = key in self.there and self._found(key)
        if found:
            self.client.update_run(found.info.run_id, status="RUNNING")
            self.runs[key] = Tracked(found.info.run_id, self._last_step(found))
        else:
            tags = {"key": key, "sweep": self.sweep}
            if event.get("cell"):
                tags["mlflow.parentRunId"] = self._open(
                    _parent(event["cell"]), {**event, "name": event["cell"], "cell": None}
                ).id
            name = event.get("name", key)
            run = self.client.create_run(self.experiment, run_name=name, tags=tags, start_time=event["time"])
            self.runs[key] = Tracked(run.info.run_id)
        return self.runs[key]

    def _found(self, key: str) -> Run | None:
        return next(iter(self.client.search_runs([self.experiment], f"tags.key = '{key}'", max_results=1)), None)

    def _log(self, tracked: Tracked, events: list[dict[str, Any]]) -> None:
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        metrics: list[Metric] = []
        for event in events:
            if event["kind"] == "start":
                params |= event["params"]
                tags |= event["tags"]
            elif event["kind"] == "note" and event["note"]:
                tags["mlflow.note.content"] = event["note"]
            elif event["kind"] == "end":
                tags |= {"outcome": event["outcome"]} | ({"why": event["why"][:4000]} if event["why"] else {})
            elif event["kind"] == "metrics" and (event["step"] > tracked.last_step or event["step"] == 0):
                metrics += [
                    Metric(name, value, event["time"], event["step"]) for name, value in event["metrics"].items()
                ]
                tracked.last_step = max(tracked.last_step, event["step"])
        for begin in range(0, max(1, len(metrics)), 900):  # MLflow takes 1000 metrics, 100 parameters a call
            self.client.log_batch(
                tracked.id,
                metrics=metrics[begin : begin + 900],
                params=[Param(name, value) for name, value in params.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )

    def _end(self, tracked: Tracked, event: dict[str, Any]) -> None:
        if event["files"] and Path(event["files"]).is_dir():
            self.client.log_artifacts(tracked.id, event["files"])
        status = {"failed": "FAILED", "dropped": "KILLED"}.get(event["outcome"], "FINISHED")
        self.client.set_terminated(tracked.id, status, end_time=event["time"])

    def _last_step(self, run: Run) -> int:
        """A trial that was interrupted tells its steps again; those that MLflow has are passed over."""
        history = (self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
        return max((point.step for points in history for point in points), default=-1)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is not None:
            return str(found.experiment_id)
        # A database alone has nowhere to put artefacts; a server proxies them and must be left to choose.
        local = not self.uri.startswith("http")
        location = (self.folder / "artifacts").absolute().as_uri() if local else None
        experiment = self.client.create_experiment(self.sweep, artifact_location=location)
        self.client.set_experiment_tag(experiment, view.TAG, view.shared())
        return str(experiment)


def _parent(cell: str) -> str:
    return f"cell:{cell}"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
