"""An embedded Ray is nobody else's: it listens on the loopback interface, and writes no token where others can read it.
A Ray of its own in a process of its own: a quarter of a minute on an idle core.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LISTENS = """
import json, os
from pathlib import Path
from sweeps.cluster import joining

def children(pid):
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == pid:
            yield found
            yield from children(found)

def sockets(pid):
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield os.readlink(path)
        except OSError:
            continue

with joining.join(1):
    import ray
    ours = {socket for pid in [os.getpid(), *children(os.getpid())] for socket in sockets(pid)}
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    listening = {line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in ours}
    mode = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote())
print(json.dumps([sorted(listening), mode, sorted(name for name in os.environ if name.startswith("RAY_AUTH_TOKEN"))]))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 as /proc/net writes it, and as IPv6 has it


def test_an_embedded_ray_is_reached_from_this_machine_only_and_writes_no_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", LISTENS], env=environment, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    listening, mode, left = json.loads(ran.stdout.splitlines()[-1])
    assert listening
    assert set(listening) <= LOOPBACK
    assert (mode, left) == ("token", [])
    assert not list(home.rglob("*token*"))
