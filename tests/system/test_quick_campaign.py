"""A quick campaign: random faults at random moments over small sweeps without Ray's processes, each followed by the
same command until it ends well. Reproducible from its seed.

Recordings, trials, studies, journal, MLflow, stages, champion, queue and slots' loop are the real ones; what stands in
Ray's place is in without_ray.py, and a driver is a fork (forking.py). A moment is a number of CPU seconds of the
driver, so it is the same one on a busy machine. test_campaign.py does the same to Ray's real processes, a minute or
more a round.

By hand, 100 rounds, eight CPU seconds each:
`QUICK_CAMPAIGN_ROUNDS=100 QUICK_CAMPAIGN_SEED=7 pytest -m slow -s tests/system/test_quick_campaign.py`, and one of them
once more with `QUICK_CAMPAIGN_ONLY=42` beside that.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drivers
import makers
import pytest
from forking import Child, Forks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROUNDS = int(os.environ.get("QUICK_CAMPAIGN_ROUNDS", "3"))
SEED = int(os.environ.get("QUICK_CAMPAIGN_SEED", "0"))
ONLY = [int(number) for number in os.environ.get("QUICK_CAMPAIGN_ONLY", "").split(",") if number]  # to see one again
STARTS = 7  # of the command, until it must have ended well
ENDED_WELL, TO_GO_ON = 0, (1, 2, 129, 130, 143)  # exit codes; 1: MLflow lacks something
SMALL_DISK = "size=96m"


@dataclass(frozen=True)
class Kind:
    """A kind of sweep, whose outcome depends on no order in which things happen."""

    cell: str
    flags: str


FROZEN = Kind(  # two slots: random draws depend on the trial's number alone
    "wav2vec2-random.tones.frozen",
    "--backbones wav2vec2-random --methods frozen --chunks 0.25,0.5 --sampler random --trials 6 --slots 2",
)
TUNED = Kind(  # one slot, so that TPE sees each trial's score
    "wav2vec2-tiny.tones",
    "--backbones wav2vec2-tiny --methods pairtune --chunks 0.25 --batch-sizes 8,16 --epochs 3 --trials 4 --slots 1",
)
# What a worker's telling may meet. Whose fault it is says what ends.
INSIDE = ("death", "queue", "node", "storage", "unclear", "recipe")
ONLY_FROZEN = ("unclear", "recipe")  # another slot is asked for its opinion; a trial that failed is asked for again
FILES = {
    "optuna": "try/optuna.db",
    "mlflow": "mlflow.db",
    "journal": "try/tracking/events.jsonl",
    "mark": "try/tracking/events.applied",
    "stage": "try/stages/*/*.safetensors",
    "encoder": "try/stages/*/encoder/*",
    "curve": "try/stages/*/curve.json",
    "checkpoint": "try/inflight/*.pt",
    "result": "try/trials/*/result.json",
    "probe": "try/trials/*/probe.safetensors",
    "sums": "try/*/*/sums.json",
    "conduct": "try/conduct.json",
    "record": "try/sweep.json",
    "identity": "try/identity.json",
    "confirmed": "try/confirmed.json",
    "prepared": "prepared/*/*",
}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Round:
    """One sweep and what happened to it."""

    number: int
    kind: Kind
    storage: Path
    draw: random.Random
    exits: list[int] = field(default_factory=list)
    late: bool = False  # the last fault met a driver that had ended: another start must mend it
    hit: list[str] = field(default_factory=list)
    open: ExitStack = field(default_factory=ExitStack)  # a small disk

    def words(self, data: Path) -> list[str]:
        places = ["--datasets", str(data), "--storage", str(self.storage), "--name", drivers.NAME]
        return [*places, "--seeds", "1", "--select", "holdout", "--patience", "20", *self.kind.flags.split()]


Strike = Callable[[Child, Round], None]


def kill(run: Child, round_: Round) -> None:
    run.tell(signal.SIGKILL)
    run.wait()
    round_.hit.append("driver killed")


def stop(run: Child, round_: Round) -> None:
    seconds = round_.draw.uniform(0.5, 3.0)
    run.tell(signal.SIGSTOP)
    time.sleep(seconds)
    run.tell(signal.SIGCONT)
    round_.hit.append(f"driver stopped for {seconds:.1f} s")


def tell(run: Child, round_: Round) -> None:
    number = round_.draw.choice(SIGNALS)
    run.tell(number)
    round_.hit.append(number.name)


def fill(run: Child, round_: Round) -> None:
    """The disk is full until this start has ended."""
    ballast = round_.storage / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    run.wait()
    ballast.unlink()
    round_.hit.append("disk full")


def lock(run: Child, round_: Round) -> None:
    """MLflow's database takes nothing and gives nothing for a while."""
    seconds = round_.draw.uniform(1.0, 9.0)
    with closing(sqlite3.connect(round_.storage / "mlflow.db", timeout=5.0)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            round_.hit.append("MLflow busy")
            return
        deadline = time.monotonic() + seconds
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        database.rollback()
    round_.hit.append(f"MLflow away for {seconds:.1f} s")


def damage(name: str) -> Strike:
    """A file is not what it was, when the driver has been killed."""

    def strike(run: Child, round_: Round) -> None:
        kill(run, round_)
        found = [path for path in sorted(round_.storage.glob(FILES[name])) if path.is_file() and path.stat().st_size]
        if not found:
            round_.hit.append(f"no {name} yet")
            return
        path, how = round_.draw.choice(found), round_.draw.choice(["halved", "emptied", "garbage behind", "zeroed"])
        content = path.read_bytes()
        if how == "garbage behind":
            content += b"\x00garbage\n"
        elif how == "zeroed":  # a block of the disk, or what there is of it
            begin = round_.draw.randrange(0, len(content), 4096)
            content = content[:begin] + bytes(len(content[begin : begin + 4096])) + content[begin + 4096 :]
        else:
            content = content[: len(content) // 2] if how == "halved" else b""
        with path.open("r+b") as file:  # in its place: no folder learns of it
            file.write(content)
            file.truncate()
        round_.hit.append(f"{path.relative_to(round_.storage)} {how}")

    return strike


FAULTS: dict[str, Strike | None] = {
    "kill": kill,
    "stop": stop,
    "signal": tell,
    "disk": fill,
    "mlflow away": lock,
    **{f"{name} damaged": damage(name) for name in FILES},
    **dict.fromkeys(INSIDE),
}


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A file system of its own in the folder, if this user may mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", str(place)], capture_output=True)
    try:
        yield not mounted.returncode
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class Campaign:
    """The process that forks, the storages that sweeps begin with, and what each kind finds undisturbed."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks, self.folder = forks, folder
        self.data = makers.tones(folder / "tones", classes=3, clips=12, noise=7.0)
        self.wanted: dict[Kind, Any] = {}
        self.cpu_seconds: dict[Kind, float] = {}  # of an undisturbed sweep

    def prepare(self, kind: Kind) -> None:
        """The ground of this kind's sweeps, and the undisturbed one; of the first kind two, for its first sweep imports
        what all further ones find imported.
        """
        is_first = not self.wanted
        ground = Round(-1, kind, self._ground(kind), random.Random(0))
        assert self.forks.start("ground", self.folder / "said", arguments=ground.words(self.data)).wait() == 0
        imported = self.folder / "imported"
        undisturbed = self.fresh(kind, -1)
        self.cpu_seconds[kind] = self.run(undisturbed, imported=str(imported))
        self.wanted[kind] = self.look(undisturbed)["found"]
        if is_first:
            self.forks.learn(json.loads(imported.read_text()))
            again = self.fresh(kind, -2)
            self.cpu_seconds[kind] = self.run(again)
            assert self.look(again)["found"] == self.wanted[kind], "not even undisturbed sweeps find the same"

    def fresh(self, kind: Kind, number: int, *, on_small_disk: bool = False) -> Round:
        """A sweep that has not begun."""
        place = self.folder / f"round {kind.cell} {number}"
        place.mkdir()
        made = Round(number, kind, place, random.Random(f"{SEED} {number}"))
        if on_small_disk and not made.open.enter_context(small_disk(place)):
            made.hit.append("no small disk for this user")
        shutil.copytree(self._ground(kind), place, dirs_exist_ok=True)
        return made

    def run(self, one: Round, **more: Any) -> float:
        """An undisturbed start; its CPU seconds."""
        run, spent = self._start(one, **more), 0.0
        while run.poll() is None:
            spent = max(spent, run.cpu_seconds())
            time.sleep(0.02)
        assert run.code == ENDED_WELL, run.words()
        return spent

    def disturb(self, one: Round, faults: list[str]) -> None:
        """The command, with a fault in each of its first starts, until it ends well."""
        for start in range(STARTS):
            fault = faults[start] if start < len(faults) else None
            one.late = False
            inside = {"what": fault, "at": one.draw.randint(1, 8)} if fault in INSIDE else {}
            more = ["--retry-failed"] if "recipe" in faults[:start] else []
            run = self._start(one, more, **inside)
            already = len(run.words())
            if inside:
                one.hit.append(f"{fault} at {inside['at']}")
            elif fault is not None:
                self._strike(one, run, fault)
            one.exits.append(run.wait())
            words = run.words()[already:]
            if one.exits[-1] == -signal.SIGKILL:
                continue  # by us
            assert "Traceback (most recent call last)" not in words, f"{one}\n{words}"
            assert one.exits[-1] in (ENDED_WELL, *TO_GO_ON), f"{one}\n{words}"
            if "--repair" in words and one.exits[-1]:
                self.repair(one)
            if one.exits[-1] == ENDED_WELL and start >= len(faults) - ("recipe" not in faults) and not one.late:
                return
        raise AssertionError(f"{one} did not end well in {STARTS} starts; the last one said\n{words}")

    def repair(self, one: Round) -> None:
        self.forks.start("repair", self._said(one), storage=str(one.storage)).wait()
        one.hit.append("repaired")

    def look(self, one: Round) -> dict[str, Any]:
        """What is wrong in the sweep's storage, and what it found."""
        out = self.folder / "found.json"
        said = self._said(one)
        run = self.forks.start("look", said, storage=str(one.storage), cell=one.kind.cell, out=str(out))
        assert run.wait() == 0, f"{one}\n{run.words()}"
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def _strike(self, one: Round, run: Child, fault: str) -> None:
        moment = one.draw.uniform(0.0, self.cpu_seconds[one.kind])
        while run.poll() is None and run.cpu_seconds() < moment:
            time.sleep(0.01)
        one.hit.append(f"[{moment:.1f} s]")
        one.late = run.poll() is not None
        if one.late:
            one.hit.append("it had ended")
        strike = FAULTS[fault]
        assert strike is not None
        strike(run, one)

    def _start(self, one: Round, more: list[str] | None = None, **inside: Any) -> Child:
        return self.forks.start("sweep", self._said(one), arguments=[*one.words(self.data), *(more or [])], **inside)

    def _said(self, one: Round) -> Path:
        said = self.folder / f"said {one.kind.cell} {one.number}"
        said.touch()
        return said

    def _ground(self, kind: Kind) -> Path:
        return self.folder / f"ground {kind.cell}"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with Forks() as forks:
        made = Campaign(forks, tmp_path_factory.mktemp("campaign"))
        for kind in (FROZEN, TUNED):
            made.prepare(kind)
        yield made


def plan() -> list[list[str]]:
    """The faults of each round: each in turn by a random order, and a second and third one by chance."""
    laps = range(ROUNDS // len(FAULTS) + 1)
    order = [name for lap in laps for name in random.Random(f"{SEED} {lap}").sample(sorted(FAULTS), len(FAULTS))]
    found = []
    for number, first in enumerate(order[:ROUNDS]):
        draw, faults = random.Random(f"{SEED} plan {number}"), [first]
        others = sorted(set(FAULTS) - {"disk", "recipe"})
        while first not in ("disk", "recipe") and draw.random() < 0.4 and len(faults) < 3:
            faults.append(draw.choice(others))
        found.append(faults)
    return found


def compared(found: dict[str, Any], *, retried: bool) -> dict[str, Any]:
    """What must be equal. A failed trial that was asked for again is not counted, nor are numbers of trials, then."""
    if not retried:
        return found
    trials = sorted((one for one in found["trials"] if one[1] == "COMPLETE"), key=json.dumps)
    runs = sorted(json.dumps(run[1:]) for run in found["runs"] if run[1] == "FINISHED")
    return {**found, "trials": trials, "runs": runs}


def lived(campaign: Campaign, number: int, faults: list[str]) -> str | None:
    """A round. What is wrong after it; None: nothing."""
    kind = FROZEN if number % 2 or set(faults) & set(ONLY_FROZEN) else TUNED
    one = campaign.fresh(kind, number, on_small_disk="disk" in faults)
    began, wrong = time.monotonic(), None
    with one.open:
        try:
            campaign.disturb(one, faults)
            if any("damaged" in fault for fault in faults):  # of what nothing needs any more: no start looks at it
                campaign.repair(one)
            looked = campaign.look(one)
            retried = "recipe" in faults
            found, wanted = (compared(it, retried=retried) for it in (looked["found"], campaign.wanted[kind]))
            others = {name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]}
            wrong = f"{looked['wrong']} {others}" if looked["wrong"] or others else None
        except AssertionError as error:
            wrong = str(error)
        print(f"round {number}: {one.hit}, exit codes {one.exits}, {time.monotonic() - began:.0f} s", flush=True)
    if wrong is None:
        shutil.rmtree(one.storage)
    else:
        print(f"  WRONG: {wrong}", flush=True)
    return wrong and f"round {number}, {faults}, {one.hit}, exit codes {one.exits}: {wrong}"


def test_whatever_happens_at_whatever_moment_the_same_command_ends_with_the_same(campaign: Campaign) -> None:
    ends = [lived(campaign, number, faults) for number, faults in enumerate(plan()) if not ONLY or number in ONLY]
    assert [one for one in ends if one is not None] == []
