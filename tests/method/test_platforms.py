"""The library, preparing and predictions run where the system is no Linux: there is no fcntl, no resource, no /proc, no
sched_getaffinity, sendfile, pread or alarm. Simulated by hiding these in the process and in those that it starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import makers
import pytest

import audioconfit
from audioconfit import memory

# Python runs this file at each start. Libraries of others have their own ways and keep what they use.
HIDING = """
import builtins, os, signal
real = builtins.__import__
def hiding(name, globals=None, locals=None, fromlist=(), level=0):
    asking = (globals or {}).get("__name__", "").split(".")[0]
    if name in ("fcntl", "resource") and asking in ("audioconfit", "filelock"):
        raise ImportError(f"No module named {name!r}")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = hiding
for name in ("sched_getaffinity", "sendfile", "pread"):
    delattr(os, name)
for name in ("SIGALRM", "setitimer", "ITIMER_REAL"):
    delattr(signal, name)
"""
WORK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from audioconfit import memory
real = Path.read_text
Path.read_text = lambda self, *words, **how: real(Path("no") if "/proc/" in str(self) else self, *words, **how)
import audioconfit
folder, recording = map(Path, sys.argv[1:])
model = audioconfit.fit(str(folder), backbone="wav2vec2-random", method="frozen", prepared="store", progress=False)
model.save("out")
assert memory.resource is None
print(json.dumps(audioconfit.load("out").predict(recording)[0].probabilities))
"""


@pytest.mark.slow
def test_another_system_gives_the_same_model(tmp_path: Path) -> None:
    makers.tones(tmp_path / "birds", seconds=0.3)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDING)
    path = min((tmp_path / "birds").rglob("*.wav"))
    ours = audioconfit.fit(str(tmp_path / "birds"), backbone="wav2vec2-random", method="frozen", progress=False)
    expected = ours.predict(path)[0].probabilities
    places = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "birds"), str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-4)
    assert (tmp_path / "store" / "samples.i16").exists()


def test_where_the_system_does_not_say_what_memory_is_free_half_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: (self / "none").open())
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory._of_machine() == whole // 2
    monkeypatch.delattr(os, "sysconf_names")
    assert memory._of_machine() == 0
