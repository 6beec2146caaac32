"""Utilisation: 18 cells x 30 trials on 64 slots, in simulated time: `pytest -m benchmark -s
tests/benchmarks/test_utilisation.py`, a minute on one core.

Studies choose the trials and stop them, the job queue's own rule hands them out; only Tune, Ray and the training are
left out. A trial lasts as long as its corpus, backbone, batch size and chunk make it, give or take a tenth; a stage 1
that another trial has run is not run again. The wall-clock hours are no prediction, only their ratios count.

2026-11-21: 100 per cent until the last trial is asked where a searcher that lets trials wait in slots reaches 78; the
search ends after 12.4 instead of 14.3 hours, or 13.3 instead of 16.3 without early stopping.
Mean of two seeds, hours until the end with early stopping / without: 13.6 / 16.3 if trials wait in slots; held without
bound 12.2 / 13.2; at most 8, 4, 2, 1 held per cell 12.6 / 14.4, 16.4 / 17.3, 18.6 / 24.5, 25.7 / 32.0.
"""

import heapq
import itertools
import math
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import heading
import makers
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from audioconfit.recipe import Recipe
from sweeps.request.cells import Cell, Space
from sweeps.search.studies import Asked, Budget, Studies
from sweeps.slots.job_queue import DONE, Entry, JobQueue
from sweeps.trial import assignment as assignments

pytestmark = pytest.mark.benchmark

SLOTS, TRIALS, EPOCHS = 64, 30, 40
CORPORA = {"timit": 5.37, "gtzan": 8.33, "esc50": 2.77, "mswc-spanish": 3.25, "mswc-indonesian": 0.2, "emodb": 0.4}
BACKBONES = {"wav2vec2": 1.0, "hubert": 1.0, "wavlm": 1.25}
SPACE = Space(batch_sizes=(16, 32, 64), chunk_seconds=(1.0, 2.0, 3.0, 5.0))
PROBE_SECONDS, BEST_RATE = 20.0, 10**-2.5


def cells() -> list[Cell]:
    """The paper's grid: six corpora (hours of audio) times three backbones (relative cost)."""
    return [
        Cell(Recipe(dataset=corpus, fingerprint="f", backbone=backbone, epochs=EPOCHS), SPACE, Path("nowhere"))
        for corpus in CORPORA
        for backbone in BACKBONES
    ]


def epoch_seconds(recipe: Recipe) -> float:
    """An hour of audio takes about a minute of one GPU."""
    return 60 * CORPORA[recipe.dataset] * BACKBONES[recipe.backbone] * (1 + 4 / recipe.batch_size)


def reached(recipe: Recipe, epoch: int) -> float:
    """A score that has one best stage per cell, so that the search comes back to it, and grows with the epochs."""
    draw = random.Random(f"{recipe.dataset} {recipe.backbone} {recipe.batch_size} {recipe.chunk_seconds}")
    rate = 0.05 * abs(math.log10(recipe.probe_lr) - math.log10(BEST_RATE))
    return (0.5 + 0.3 * draw.random() - rate) * (1 - math.exp(-6 * epoch / EPOCHS))


@dataclass
class Fleet:
    """Slots in simulated time."""

    studies: Studies
    slots: int
    now: float = 0.0
    busy: list[tuple[float, float]] = field(default_factory=list)
    asked: float = 0.0  # until when a trial was left to ask
    queue: JobQueue = field(default_factory=JobQueue)
    trials: dict[str, str] = field(default_factory=dict)  # the name of each job's trial
    done: dict[str, int] = field(default_factory=dict)  # epochs that each stage has run
    events: list[tuple[float, int, str, float, Entry, int]] = field(default_factory=list)
    count: itertools.count = field(default_factory=itertools.count)

    def run(self) -> None:
        """Until every trial has ended."""
        draw, free = random.Random(0), [f"slot-{number}" for number in range(self.slots)]
        while True:
            self._ask()
            for slot in list(free):
                if (entry := self.queue._next(slot)) is not None:
                    free.remove(slot)
                    entry.slot, self.queue.warm[slot] = slot, entry.job.warmth
                    epoch = self.done.get(entry.job.stage or "", 0)
                    self._go_on(entry, epoch, self.now, draw.uniform(0.9, 1.1))
            if not self.events:
                return
            self.now, _, slot, began, entry, epoch = heapq.heappop(self.events)
            if self._ends(entry, epoch):
                self.busy.append((began, self.now))
                self.queue._end(entry, DONE)
                free.append(slot)
            else:
                self._go_on(entry, epoch, began, draw.uniform(0.9, 1.1))

    def _ask(self) -> None:
        """Tune's part: never more trials than slots."""
        while len(self.studies.live) < self.slots:
            name = str(next(self.count))
            asked = self.studies.start(name) if self.studies.remaining() else None
            if asked is None:
                break
            job = self.studies.assignment(asked).job()
            self.queue.jobs[job.key], self.trials[job.key] = Entry(job), name
        if any(self.studies._left(cell) for cell in self.studies.cells):
            self.asked = self.now

    def _go_on(self, entry: Entry, epoch: int, began: float, luck: float) -> None:
        """To the next epoch that is validated, or to the end of the probe."""
        recipe = assignments.unpack(entry.job).recipe
        step = EPOCHS // 8 if epoch < EPOCHS else 1
        seconds = PROBE_SECONDS if epoch >= EPOCHS else step * epoch_seconds(recipe)
        heapq.heappush(
            self.events, (self.now + luck * seconds, next(self.count), entry.slot or "", began, entry, epoch + step)
        )

    def _ends(self, entry: Entry, epoch: int) -> bool:
        recipe, trial = assignments.unpack(entry.job).recipe, self.trials[entry.job.key]
        if epoch > EPOCHS:
            self.studies.finish(
                trial, {"ended": True, "valid_score": reached(recipe, EPOCHS), "cost": epoch_seconds(recipe)}
            )
            return True
        self.done[recipe.stage_key] = epoch
        result = {"valid_knn": reached(recipe, epoch), "epoch": epoch}
        self.studies.report(trial, result)
        if self.studies.should_stop(trial, result):
            self.studies.finish(trial, result)
            return True
        return False

    def utilisation(self, until: float) -> float:
        """The share of the slots' time that they worked."""
        return sum(min(end, until) - min(began, until) for began, end in self.busy) / (self.slots * until)


class Waiting(Studies):
    """As a plain searcher does it: a trial is given to a slot though another one is at its stage 1, and waits there."""

    def _next(self) -> Asked | None:
        return self.held.pop(0) if self.held else self._ask(frozenset())


def regret(studies: Studies) -> float:
    """How far the best of a cell is from the best there is, mean over the cells."""
    gaps = []
    for cell in studies.cells.values():
        best = max(trial.value or 0.0 for trial in studies.history(cell) if trial.state == TrialState.COMPLETE)
        keys = itertools.product(SPACE.batch_sizes, SPACE.chunk_seconds)
        recipes = [
            cell.recipe({"batch_size": batch, "chunk_seconds": chunk, "probe_lr": BEST_RATE}) for batch, chunk in keys
        ]
        gaps.append(max(reached(recipe, EPOCHS) for recipe in recipes) - best)
    return statistics.fmean(gaps)


def test_no_slot_idles_while_a_trial_is_left_to_ask(tmp_path: Path) -> None:
    """Until the queue is empty, that is, until no trial is left to ask; those that wait then wait for a stage at work.

    What follows is the tail: stages of hours against a search of half a day, on as many slots as there are.
    """
    heading.show(f"{len(cells())} cells x {TRIALS} trials on {SLOTS} slots, simulated; stages take 0.1 to 9 h")
    print("a trial whose stage is at work   stopping     until none is left to ask   until the last end   regret")
    queued, ends = {}, {}
    for search, early_stopping in itertools.product((Waiting, Studies), (True, False)):
        studies = search(
            cells(),
            budget=Budget(TRIALS),
            root=tmp_path,
            sweep=makers.IDENTITY,
            storage=InMemoryStorage(),
            shared=False,
            early_stopping=early_stopping,
        )
        fleet = Fleet(studies, SLOTS)
        fleet.run()
        ended = [trial.state for cell in studies.cells.values() for trial in studies.history(cell)]
        assert len(ended) == len(studies.cells) * TRIALS
        assert TrialState.RUNNING not in ended
        queued[search, early_stopping] = fleet.utilisation(fleet.asked)
        ends[search, early_stopping] = fleet.now
        print(
            f"{'waits in a slot' if search is Waiting else 'is held, another one runs':<32} "
            f"{'early' if early_stopping else 'none':<10} "
            f"{100 * queued[search, early_stopping]:8.1f} % of {fleet.asked / 3600:4.1f} h "
            f"{100 * fleet.utilisation(fleet.now):13.1f} % of {fleet.now / 3600:4.1f} h {regret(studies):8.4f}"
        )
    assert min(queued[Studies, early_stopping] for early_stopping in (True, False)) >= 0.95
    assert sum(ends[Studies, stopping] for stopping in (True, False)) < sum(
        ends[Waiting, stopping] for stopping in (True, False)
    )
