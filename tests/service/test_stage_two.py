"""Stage 2 of a trial: while rank 0 fits the probe, all ranks give signs of life together."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import makers
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from audioconfit import audio, corpora
from audioconfit.recipe import Recipe
from sweeps.slots import worker
from sweeps.trial import work
from sweeps.trial.assignment import Assignment

EPOCHS = 2


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    corpus = corpora.load(str(makers.tones(tmp_path / "tones")), tmp_path)
    fingerprint = audio.prepare(corpus, tmp_path / "prepared").fingerprint
    numbers: dict[str, Any] = {"method": "frozen", "chunk_seconds": 0.25, "epochs": EPOCHS, "probe_epochs": 3}
    recipe = Recipe(dataset=corpus.name, fingerprint=fingerprint, backbone="wav2vec2-random", **numbers)
    return Assignment(recipe, tmp_path / "prepared", tmp_path / "sweep", "key")


def signs(told: list[Any]) -> int:
    """How many signs of life came before the result, which is the last that is told."""
    assert told[-1][0] == EPOCHS + 1
    assert told[:-1] == [[EPOCHS, None]] * (len(told) - 1)
    return len(told) - 1


def test_a_probe_at_work_is_not_silent(assignment: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def tell(step: int, metrics: dict[str, Any] | None) -> bool:
        told.append([step, metrics])
        return True

    work.work(assignment, tell)
    assert signs(told) == 0  # it took no seconds
    told.clear()
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", -1.0)
    work.work(assignment, tell)
    assert signs(told) == 3 * 1 + 1  # steps of the probe, blocks of neighbours
    assert told[-1][1]["ended"]


def test_a_confirmation_of_every_layer_says_what_each_is_worth(assignment: Assignment) -> None:
    recipe = assignment.recipe.model_copy(update={"layers": "all", "probe_layer": 0})
    confirmed = replace(assignment, recipe=recipe, reads_test=True)
    work.work(confirmed, lambda step, metrics: True)
    left = {"predictions.parquet", "mistakes", "mistakes.html", "scores.html"}
    assert left <= {path.name for path in confirmed.folder.iterdir()}
    by_layer = json.loads((confirmed.folder / "layers.json").read_text())
    assert list(by_layer) == ["0", "1", "last", "mean", "weighted"]
    result = json.loads((confirmed.folder / "result.json").read_text())
    assert by_layer["0"] == result["metrics"]["valid_score"]
    assert (confirmed.folder / "layers.png").exists()


def on_rank(rank: int, port: int, assignment: Assignment) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    work.HEARTBEAT_SECONDS = -1.0
    told = []

    def tell(step: int, metrics: dict[str, Any] | None) -> bool:
        told.append([step, metrics and {}])
        return worker._from_rank_zero(rank == 0)

    work.work(assignment, tell)
    (assignment.root / f"{rank}.told").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_all_ranks_follow_the_signs_of_the_first(assignment: Assignment) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One server that has imported everything and forks: spawning would import it all again in both.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["sweeps.trial.work"])
    multiprocessing.start_processes(on_rank, (port, assignment), 2, start_method="forkserver")
    first, second = (json.loads((assignment.root / f"{rank}.told").read_text()) for rank in (0, 1))
    assert signs(first) == signs(second) == 4
