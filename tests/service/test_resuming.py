"""Two starts of one sweep: what may change, and that only one of them is alive."""

import subprocess
import sys
from pathlib import Path

import makers
import pytest

from sweeps.request.resuming import lease, note_conduct, reconcile


def test_the_same_cells_and_more_of_them_are_welcome(tmp_path: Path) -> None:
    reconcile(tmp_path, [makers.cell()])
    reconcile(tmp_path, [makers.cell(), makers.cell(backbone="wavlm-random")])


@pytest.mark.parametrize(("setting", "value"), [("epochs", 9), ("fingerprint", "other"), ("version", 99), ("lr", 1.0)])
def test_what_makes_trials_incomparable_is_refused_with_what_changed(
    tmp_path: Path, setting: str, value: object
) -> None:
    reconcile(tmp_path, [makers.cell()])
    with pytest.raises(ValueError, match=rf"{setting} was .*, is {value}"):
        reconcile(tmp_path, [makers.cell(**{setting: value})])


def test_other_machines_are_welcome_and_said_at_each_start_from_then_on(tmp_path: Path) -> None:
    alone = {"--workers-per-trial": 1, "--gpus-per-worker": 0.0, "--micro-batch": None}
    assert note_conduct(tmp_path, alone) is None
    assert note_conduct(tmp_path, alone) is None
    said = note_conduct(tmp_path, alone | {"--workers-per-trial": 2, "--micro-batch": 8})
    assert said is not None
    assert said.startswith(
        "Trials of this sweep ran or will run with --workers-per-trial 1, 2; --micro-batch as fits, 8"
    )
    assert note_conduct(tmp_path, alone) == said


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    take = f"""
from pathlib import Path
from sweeps.request.resuming import lease
with lease(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", take], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"process {first.pid} on"), lease(tmp_path):
            pass
        first.kill()  # kill -9: nothing is cleaned up
    with lease(tmp_path):
        pass
