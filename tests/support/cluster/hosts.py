"""Test hosts: machines for `ray up`, on this one. Each has its own address, processes, file system and sshd; all see
one shared folder. They lie in a network of their own, from which nothing else can be reached.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNET = 0x40000000
OWN_ADDRESS = "10.77.0.1"  # the laptop's; hosts are given others of 10.77.0.0/16
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "curl", "pivot_root")
PACKAGES = "openssh-server openssh-client rsync iproute2 util-linux curl"
BOOT = Path(__file__).with_name("boot.sh")
KEPT = (sys.prefix, sys.base_prefix, Path(__file__).parents[3])  # folders of this machine that hosts see, too
SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")


def why_not() -> str | None:
    """Why this machine cannot have test hosts; None where it can."""
    if os.geteuid() != 0:
        return "test hosts need root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        return f"{', '.join(missing)} not found: apt-get install {PACKAGES}"
    bridge = ["unshare", "--mount", "--pid", "--net", "--fork", "ip", "link", "add", "switch", "type", "bridge"]
    tried = subprocess.run(bridge, capture_output=True, text=True)
    if tried.returncode:
        return f"no namespaces with a network here: {tried.stderr.strip()}"
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return "no overlay file system here"
    return None


@contextmanager
def network() -> Iterator[None]:
    """Takes this thread, and the processes that it starts, into an empty network."""
    with open("/proc/thread-self/ns/net") as before:
        _system("unshare", CLONE_NEWNET)
        try:
            _run("ip", "link", "set", "lo", "up")
            _run("ip", "link", "add", "switch", "type", "bridge")
            _run("ip", "address", "add", f"{OWN_ADDRESS}/16", "dev", "switch")
            _run("ip", "link", "set", "switch", "up")
            yield
        finally:
            _system("setns", before.fileno(), CLONE_NEWNET)


@dataclass(frozen=True)
class Host:
    """One that was booted."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"
    cable: str


@dataclass
class Hosts:
    """Those that are up. `settings` are environment variables of their shells."""

    folder: Path
    shared: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    up: dict[str, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        for name in ("id", "hostkey"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        settings = {"RAY_USAGE_STATS_ENABLED": "0", **self.settings}
        exports = "".join(f"export {name}={value}\n" for name, value in settings.items())
        (self.folder / "bashrc").write_text(exports)

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all of them."""
        for address in list(self.up):
            self.kill(address)

    @property
    def key(self) -> Path:
        """The private key that opens all of them."""
        return self.folder / "id"

    def boot(self, address: str) -> Host:
        """Returns when ssh answers."""
        name = "host-" + address.replace(".", "-")
        cable = f"cable{len(list(self.folder.glob('*.log')))}"
        log = self.folder / f"{name}.log"
        spaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child=SIGKILL")
        kept = map(str, KEPT)
        with log.open("wb") as said:
            process = subprocess.Popen(
                ["unshare", *spaces, "bash", str(BOOT), str(self.folder), name, address, str(self.shared), *kept],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        host = self.up[address] = Host(name, address, process, cable)
        first = _child(process.pid)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(first))
        _run("ip", "link", "set", cable, "master", "switch", "up")
        deadline = time.monotonic() + 30
        while self.ssh(address, "true").returncode:
            assert process.poll() is None, f"{name} did not boot: {log.read_text()}"
            assert time.monotonic() < deadline, f"{name} does not answer: {log.read_text()}"
            time.sleep(0.1)
        return host

    def kill(self, address: str) -> None:
        """Sudden death: the cable first, so that no process can say goodbye."""
        host = self.up.pop(address)
        subprocess.run(["ip", "link", "delete", host.cable], check=False, capture_output=True)
        host.process.kill()  # takes process 1 of the host with it, and that one all others
        host.process.wait()

    def ssh(self, address: str, command: str, *, input: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs a command on a host, in a shell that has read its .bashrc."""
        login = ["ssh", "-i", str(self.key), *SSH, "-o", "ConnectTimeout=2", f"root@{address}"]
        shell = f"bash -ic {_quoted(command)}"
        return subprocess.run([*login, shell], input=input, capture_output=True, text=True, timeout=120)


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def _child(pid: int) -> int:
    """The process that `unshare --fork` has made: process 1 of the new namespaces."""
    deadline = time.monotonic() + 10
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline, "unshare made no process"
        time.sleep(0.01)
    return int(children[0])


def _system(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
