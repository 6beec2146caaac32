"""Throughput: 1000 trials that take no time, through the whole service: `pytest -m benchmark -s
tests/benchmarks/test_throughput.py`, two to four minutes on two cores.

Ten cells, Optuna and MLflow on SQLite, the journal, the hub, one warm slot, the proxy and Tune. Each trial tells an
early score and a final one. The clock runs until MLflow has everything; half-way the slot is replaced, as after every
500 trials. Beside the clock the table has the CPU time of the driver's process, which neighbours stretch less.

On 2 shared cores, 2026-11-21, last fifth / first fifth on the clock and in CPU time: 62 ms a trial, 1.09 and
1.18 under load 3; 93 ms, 1.18 and 1.23 under load 9.
All in one cell: 105 ms, 1.21 and 1.32 (load 6), for Optuna's sampler weighs every trial of its study.
"""

import os
import statistics
from itertools import pairwise
from pathlib import Path

import heading
import makers
import pytest
import service
from mlflow import MlflowClient
from optuna.trial import TrialState

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(1800)]

CELLS, TRIALS = 10, 1000
IDLE = 1.0  # the load up to which the clock counts


def test_a_thousand_trials(tmp_path: Path) -> None:
    busy = os.getloadavg()[0]
    cells = [makers.cell(dataset=f"tones-{number}", epochs=12) for number in range(CELLS)]
    ran = service.run(cells, trials=TRIALS // CELLS, root=tmp_path)
    ended = [trial.state for cell in cells for trial in ran.studies.history(cell)]
    assert ended == [TrialState.COMPLETE] * TRIALS
    assert told_to_mlflow(ran) == TRIALS
    wall, cpu = (
        [1000 * (after - before) for before, after in pairwise(moments)] for moments in zip(*ran.ends, strict=True)
    )
    fifth = TRIALS // 5
    heading.show(f"{TRIALS} trials that take no time, one slot")
    print("trials          ms a trial (mean, median)   ms CPU of the driver")
    for begin in range(0, TRIALS - 1, fifth):
        part, work = wall[begin : begin + fifth], cpu[begin : begin + fifth]
        print(f"{begin:4d} to {begin + fifth:4d} {statistics.fmean(part):12.1f} {statistics.median(part):8.1f}", end="")
        print(f"{statistics.fmean(work):20.1f}")
    each = 1000 * (ran.told - ran.began) / TRIALS
    growth = [statistics.fmean(series[-fifth:]) / statistics.fmean(series[:fifth]) for series in (wall, cpu)]
    print(f"all, until MLflow has them: {each:.1f} ms a trial")
    print(f"last fifth / first fifth: {growth[0]:.2f} on the clock, {growth[1]:.2f} in CPU time")
    assert growth[1] <= 1.3
    if busy < IDLE:  # on a machine that others use, the clock shows what they do
        assert growth[0] <= 1.3
        assert each <= 100
    assert statistics.fmean(cpu) <= 100


def told_to_mlflow(ran: service.Ran) -> int:
    """How many finished trials MLflow has."""
    client = MlflowClient(tracking_uri=ran.tracker.uri)
    query = "tags.kind = 'trial' and attributes.status = 'FINISHED'"
    return len(client.search_runs([ran.tracker.experiment], query, max_results=10 * TRIALS))
