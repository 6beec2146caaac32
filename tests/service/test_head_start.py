"""A head start: slots come up while the driver imports and prepares, but not where something seems to be amiss; what
is refused afterwards leaves nothing behind.
"""

import gc
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import drivers
import makers
import pytest

from sweeps.cluster import warm_slots
from sweeps.cluster.capacity import SlotRequest
from sweeps.request import flags, head_start
from sweeps.slots.pool import SlotShape

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with own data, a backbone without its configuration, and a hub cache that lacks all but one."""
    for name in ("mine", "no-config", "models--org--cached"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(head_start.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def may_begin(*words: str) -> bool:
    usual = [
        "--backbones",
        "wav2vec2-random",
        "--storage",
        "new",
        *([] if "--demo" in words else ["--datasets", "mine"]),
    ]
    return head_start.may_begin(flags.parse([*usual, *words], {}))


@pytest.mark.parametrize(
    "words", [[], ["--backbones", "org/cached"], ["--backbones", "wav2vec2-tiny"], ["--storage", "."], ["--demo"]]
)
def test_a_new_sweep_with_its_data_and_weights_has_a_head_start(words: list[str], here: Path) -> None:
    assert may_begin(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--dry-run"],
        ["--datasets", "other"],
        ["--datasets", "mine,org/name"],
        ["--datasets", "emodb", "--data", "none"],
        ["--datasets", "emodb", "--data", ".", "--download"],
        ["--backbones", "no-config"],
        ["--backbones", "wav2vec2-random,org/other"],
        ["--storage", ".", "--name", "mine"],  # begun already
        ["--storage", "file"],
        ["--storage", "x" * 300],
        ["--datasets", "x" * 300],
        ["--workers-per-trial", "2"],
        ["--tracking-uri", "http://127.0.0.1:9"],
        ["--optuna-storage", "postgresql://127.0.0.1:9/a"],
    ],
)
def test_nothing_starts_where_something_is_amiss_or_must_be_asked(words: list[str], here: Path) -> None:
    assert not may_begin(*words)


@pytest.mark.parametrize(("variable", "value"), [("RAY_ADDRESS", "head:6379"), ("RAY_TMPDIR", "/tmp/" + "deep/" * 20)])
def test_nothing_starts_on_a_cluster_or_where_ray_has_no_place(
    variable: str, value: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert not may_begin()


def test_slots_start_without_what_takes_their_driver_seconds_to_import() -> None:
    program = (
        "import sys\nfrom sweeps.request import head_start\n"
        "print(*{'torch', 'mlflow', 'optuna', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_in_the_middle_of_torch_s_import_ends_in_words(number: int, code: int, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "class Signals:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'torch.nn': os.kill(os.getpid(), {number:d})\n"
        "from sweeps import grid\n"
        "sys.meta_path.insert(0, Signals())\n"
        "sys.exit(grid.main(sys.argv[1:]))"
    )
    words = ["--datasets", str(tmp_path), "--storage", str(tmp_path / "new")]
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (code, "")
    assert ran.stdout.startswith("Interrupted; all that was reached is saved. To go on,")


@pytest.mark.parametrize("served", [False, True])
def test_ray_is_left_to_the_end_of_the_process_where_nobody_served_the_slots(
    served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the slots are in the middle of Ray's calls then: only the order of things is looked at here."""
    ended: list[str] = []

    @contextmanager
    def join(cpus: int | None) -> Iterator[None]:
        yield
        ended.append("Ray")

    closing = threading.Event()
    pool = SimpleNamespace(
        closing=closing, shape=SlotShape(), jobs="jobs", grow=int, close=lambda: ended.append("slots")
    )
    monkeypatch.setattr(warm_slots.joining, "join", join)
    monkeypatch.setattr(warm_slots.capacity, "fitting_shape", lambda request: SlotShape())
    monkeypatch.setattr(warm_slots.capacity, "slot_count", lambda *words: 1)
    monkeypatch.setattr(warm_slots.Jobs, "start", lambda **words: SimpleNamespace(end=lambda: ended.append("queue")))
    monkeypatch.setattr(warm_slots, "Pool", lambda *words, **more: pool)
    monkeypatch.setattr(warm_slots, "Supervisor", lambda *words, **more: SimpleNamespace(close=int))
    slots = warm_slots.WarmSlots(SlotRequest(), "work", tmp_path, 1.0, 1.0, ends_with_process=True)
    with slots:
        slots.warm_up(1)
        if served:
            slots.serve(lambda: 1)
    del slots
    gc.collect()
    assert closing.is_set() or served
    assert ended == (["slots", "queue", "Ray"] if served else [])
    warm_slots._left_open.clear()


def left(mark: str) -> list[str]:
    """The commands of the processes whose environment has the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.slow  # 20 s of CPU time each: Ray starts, and torch is imported
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("end", ["refused", "interrupted"])
def test_what_ends_early_ends_the_ray_that_had_a_head_start(end: str, tmp_path: Path) -> None:
    data = makers.tones(tmp_path / "tones", classes=2, clips=1)  # too few to be split, which is seen late
    mark = f"AUDIOCONFIT_MARK={uuid.uuid4()}"
    environment = drivers.environment(**dict([mark.split("=")]))
    command = [
        sys.executable,
        str(ROOT / "sweeps/grid.py"),
        "--datasets",
        str(data),
        "--storage",
        str(tmp_path / "new"),
    ]
    with subprocess.Popen(
        [*command, "--backbones", "wav2vec2-random"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        had_ray = False
        while driver.poll() is None:
            if not had_ray and any("raylet" in one for one in left(mark)):
                had_ray = True
                if end == "interrupted":
                    driver.send_signal(signal.SIGINT)
            time.sleep(0.2)
        said = driver.stdout.read() if driver.stdout else ""
    assert had_ray
    assert driver.returncode == {"refused": 2, "interrupted": 130}[end], said
    assert "Traceback" not in said
    deadline = time.monotonic() + 180  # Ray's agents end themselves, once they are done with their imports
    while left(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left(mark) == []
