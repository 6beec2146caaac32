"""The cluster: what a slot takes, how many fit, and decoding spread over it."""

from pathlib import Path

import makers
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from audioconfit import audio, corpora
from sweeps.cluster import capacity, joining
from sweeps.cluster.capacity import SlotRequest
from sweeps.cluster.warm_slots import WarmSlots
from sweeps.faults import Halted
from sweeps.slots.pool import SlotShape


def test_a_worker_takes_a_gpu_where_there_are_any() -> None:
    assert SlotRequest().shape(has_gpus=True) == SlotShape(workers=1, cpus=1.0, gpus=1.0)
    assert SlotRequest().shape(has_gpus=False) == SlotShape(workers=1, cpus=1.0, gpus=0.0)


def test_fractions_share_a_gpu() -> None:
    shape = SlotRequest(gpus=0.5).shape(has_gpus=True)
    assert shape.fit_into({"CPU": 8.0, "GPU": 2.0}) == 4


def test_slots_are_bound_by_the_scarcer_resource() -> None:
    assert SlotShape(workers=2, cpus=1.0, gpus=1.0).fit_into({"CPU": 3.0, "GPU": 8.0}) == 1


@pytest.mark.usefixtures("local_ray")
def test_decoding_on_the_cluster_gives_the_same_store(tmp_path: Path) -> None:
    corpus = corpora.load(str(makers.tones(tmp_path / "tones")), tmp_path)
    here = audio.prepare(corpus, tmp_path / "here")
    spread = audio.prepare(corpus, tmp_path / "spread", map=joining.map_on_nodes)
    assert spread.fingerprint == here.fingerprint
    assert (spread.samples == here.samples).all()


@pytest.mark.parametrize(("asked", "joined"), [("local", None), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_the_address_says_which_cluster_is_joined(
    asked: str, joined: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", asked)
    assert joining.address() == joined


RAY_UP = """
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0}
  worker: {resources: {CPU: 4, GPU: 1}, max_workers: 3}
  large: {resources: {CPU: 16, GPU: 4}, max_workers: 1}
"""


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_that_scales_up_has_room_for_what_its_file_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "BOOTSTRAP", tmp_path / "ray_bootstrap_config.yaml")
    (tmp_path / "ray_bootstrap_config.yaml").write_text(RAY_UP)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    asked = SlotRequest()
    shape = capacity.fitting_shape(asked)  # two CPUs and no GPU are up, yet
    assert shape == SlotShape(workers=1, cpus=1.0, gpus=1.0)
    assert capacity.slot_count(asked, shape, jobs=100) == 7
    assert capacity.slot_count(asked, shape, jobs=2) == 2
    assert capacity.slot_count(asked, SlotShape(workers=2, cpus=1.0, gpus=1.0), jobs=100) == 3
    monkeypatch.setenv("RAY_ADDRESS", "local")  # the file says nothing about an embedded Ray
    assert capacity.fitting_shape(asked).gpus == 0


TIMED_OUT = "The current node timed out during startup. This could happen because the raylet failed to startup"


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_ray_that_a_busy_machine_did_not_start_in_time_is_started_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own limit of 30 s cannot be reached at will: its `init` is replaced."""
    calls: list[str] = []

    def init(**settings: object) -> None:
        calls.append("init")
        if calls.count("init") <= failures:
            raise Exception(TIMED_OUT)

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(joining.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(joining.ray, "init", init)
    monkeypatch.setattr(joining.ray, "shutdown", lambda: calls.append("shutdown"))
    if failures == joining.START_ATTEMPTS:
        with pytest.raises(Halted, match=r"Ray did not start within 30 s, 3 times in a row: .* Run the same command"):
            joining.join().__enter__()
        assert calls == ["init", "shutdown"] * failures
        return
    with joining.join():
        assert calls == [*["init", "shutdown"] * failures, "init"]


def test_another_fault_of_rays_start_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("no socket")

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(joining.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(joining.ray, "init", init)
    with pytest.raises(RuntimeError, match="no socket"):
        joining.join().__enter__()


def test_a_ray_that_died_is_said_in_a_sentence_but_what_a_task_raised_stays_a_bug(tmp_path: Path) -> None:
    def slots() -> WarmSlots:
        return WarmSlots(SlotRequest(), print, tmp_path, 1.0, 1.0, started=print, halt=print, leave=print)

    def closing() -> None:
        raise ActorDiedError

    with pytest.raises(Halted, match=r"^Ray is gone \(.*\)\. Run the same command again"), slots():
        raise ActorDiedError
    with pytest.raises(RayTaskError), slots():
        raise RayTaskError("task", "Traceback", ValueError("ours"))
    with slots() as ended:
        ended._open.callback(closing)  # the queue is gone with it, and all results are there
