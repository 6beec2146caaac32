"""`ray up` on machines of one's own, for real: three test hosts, sweeps/cluster/own-machines.yaml, a sweep over two
workers of which one dies. The tests are a user's session in order, on one cluster.

About 4 minutes on two cores.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drivers
import makers
import pytest
import yaml
from cluster import hosts, laptop
from cluster.hosts import Hosts
from cluster.laptop import Laptop, until
from drivers import ROOT

from sweeps.search.studies import STARTUP_TRIALS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not())),
]

FILE = ROOT / "sweeps" / "cluster" / "own-machines.yaml"
HEAD, WORKERS = "10.77.0.10", ["10.77.0.11", "10.77.0.12"]
DASHBOARD, MLFLOW = "http://127.0.0.1:8265", "http://127.0.0.1:5000"
TRIALS = STARTUP_TRIALS + 3
# What README lists: ssh, Ray's fixed ports, Ray's workers, and on the head Ray's client and metrics.
RAY_PORTS, WORKER_PORTS = set(range(6380, 6386)), set(range(10002, 11000))
HEAD_PORTS = {6379, 10001, 44217, 44227}


@dataclass(frozen=True)
class Cluster:
    """The machines, the laptop, the file that `ray up` is given, and the folder that all machines see."""

    hosts: Hosts
    laptop: Laptop
    file: str
    shared: Path


def for_test_hosts(key: Path) -> dict[str, Any]:
    """The file as a user would edit it, with an environment that is there already instead of the installation."""
    config = yaml.safe_load(FILE.read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": WORKERS}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["setup_commands"] = laptop.without_installing(config["setup_commands"], f"ln -sfn {sys.prefix} ~/venv")
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three machines on which `ray up` was run."""
    folder = tmp_path_factory.mktemp("cluster")
    shared, file = folder / "shared", folder / "own-machines.yaml"
    makers.tones(shared / "data" / "tones", classes=4, clips=20, noise=7.0)
    with hosts.network(), Hosts(folder / "hosts", shared) as machines:
        for address in (HEAD, *WORKERS):
            machines.boot(address)
        file.write_text(yaml.safe_dump(for_test_hosts(machines.key), sort_keys=False, width=1000))
        user = Laptop(folder / "laptop")
        user.start(file)
        yield Cluster(machines, user, str(file), shared)


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> str:
    return (cluster.laptop.home / ".ray" / "auth_token").read_text().strip()


def answer(url: str, token: str | None = None) -> tuple[int, str]:
    """Status and text; status 0 where nobody listens."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(asked, timeout=20) as answered:
            return answered.status, answered.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def open_ports(cluster: Cluster, of: str, seen_from: str) -> set[int]:
    scan = Path(hosts.__file__).with_name("scan.py").read_text()
    return {int(port) for port in cluster.hosts.ssh(seen_from, f"{sys.executable} - {of}", input=scan).stdout.split()}


def processes(cluster: Cluster, address: str, what: str) -> list[str]:
    """The command lines on a host that hold the words."""
    listed = cluster.hosts.ssh(address, "ps -eo args").stdout.splitlines()
    return [line for line in listed if what in line]


def until_gone(cluster: Cluster, address: str, what: str) -> None:
    until(lambda: not processes(cluster, address, what), seconds=40, what=f"the end of {what} on {address}")


def test_the_file_differs_from_ours_only_in_addresses_key_and_installation(tmp_path: Path) -> None:
    ours = yaml.safe_load(FILE.read_text())
    assert set(laptop.differences(ours, for_test_hosts(tmp_path / "id"))) == {
        *("provider.head_ip", "provider.worker_ips.0", "provider.worker_ips.1"),
        *("auth.ssh_user", "auth.ssh_private_key"),
        "setup_commands.3",
    }
    assert "pip install" in ours["setup_commands"][3]


def test_all_machines_join_and_pass_the_preflight(cluster: Cluster) -> None:
    def joined() -> bool:
        return "3 local.cluster.node" in cluster.laptop.run("ray", "exec", cluster.file, "ray status")

    until(joined, seconds=120, what="three nodes")
    said = cluster.laptop.run("ray", "exec", cluster.file, "python ~/audioconfit/sweeps/preflight.py")
    assert "Nothing is wrong." in said


def test_a_scan_finds_the_listed_ports_and_no_other(cluster: Cluster) -> None:
    head, worker = open_ports(cluster, HEAD, WORKERS[0]), open_ports(cluster, WORKERS[0], HEAD)
    assert head - WORKER_PORTS == {22} | RAY_PORTS | HEAD_PORTS
    assert worker - WORKER_PORTS == {22} | RAY_PORTS


def test_ray_refuses_without_the_token(cluster: Cluster) -> None:
    connect = f"import ray; ray.init('{HEAD}:6379', log_to_driver=False); print(len(ray.nodes()), 'nodes')"
    tried = f'timeout 60 {sys.executable} -c "{connect}"'
    assert "3 nodes" in cluster.hosts.ssh(WORKERS[0], tried).stdout
    stranger = cluster.hosts.ssh(WORKERS[0], f"RAY_AUTH_TOKEN={'0' * 64} {tried}")
    assert "nodes" not in stranger.stdout
    assert "token" in stranger.stderr.lower()


def test_a_storage_that_only_the_head_sees_is_refused(cluster: Cluster) -> None:
    sweep = "python ~/audioconfit/sweeps/grid.py --demo --datasets esc50 --storage /tmp/private"
    refused = cluster.hosts.ssh(HEAD, sweep)
    assert refused.returncode == 2
    assert "is not the same folder on" in refused.stdout + refused.stderr


def test_a_sweep_is_submitted_and_a_machine_dies(cluster: Cluster, token: str) -> None:
    storage, name, backbone = cluster.shared / "storage", drivers.NAME, drivers.CELL.partition(".")[0]
    sweep = (
        f"python sweeps/grid.py --datasets /srv/audioconfit/data/tones --backbones {backbone} --name {name} "
        f"--trials {TRIALS} --epochs 48 --seeds 1 --batch-sizes 8,16 --chunks 0.25,0.3,0.4,0.5 --cpus-per-worker 2 "
        "--select holdout"
    )

    def status() -> str:
        return str(json.loads(answer(f"{DASHBOARD}/api/jobs/{name}", token)[1])["status"])

    def logs() -> str:
        return str(json.loads(answer(f"{DASHBOARD}/api/jobs/{name}/logs", token)[1])["logs"])

    with cluster.laptop.open("ray", "dashboard", cluster.file):
        until(lambda: answer(f"{DASHBOARD}/")[0] == 200, seconds=120, what="the dashboard")
        for path in ("/api/jobs/", "/api/version", "/nodes?view=summary", "/api/cluster_status"):
            assert answer(DASHBOARD + path)[0] == 401, path
            assert answer(DASHBOARD + path, "0" * 64)[0] == 403, path
            assert answer(DASHBOARD + path, token)[0] == 200, path
        where = ("--address", DASHBOARD, "--submission-id", name, "--working-dir", ".")
        cluster.laptop.run("ray", "job", "submit", "--no-wait", *where, "--", *sweep.split())

    # The laptop is closed. Two trials run; the machine of one of them dies.
    until(lambda: drivers.reported(storage, 1) and drivers.reported(storage, 2), seconds=300, what="two trials")
    assert all(processes(cluster, address, "ray::RayTrainWorker") for address in WORKERS)
    cluster.hosts.kill(WORKERS[1])
    killed = time.time()

    with cluster.laptop.open("ray", "dashboard", cluster.file):
        until(lambda: answer(f"{DASHBOARD}/")[0] == 200, seconds=120, what="the dashboard")
        until(lambda: status() in ("SUCCEEDED", "FAILED", "STOPPED"), seconds=480, what="the end of the sweep")
        assert status() == "SUCCEEDED", logs()
        assert "audioconfit-tones version 1" in logs()
    lost = [line for line in (storage / name / "slots.log").read_text().splitlines() if "its worker died" in line]
    assert lost, "the machine was not in mid-trial"
    assert 0 < float(lost[0].split()[0]) - killed < 30, "by default Ray takes a minute"
    (storage / "mlflow.db").symlink_to("../mlflow/mlflow.db")  # where the audit looks for it
    drivers.audit(storage, trials=TRIALS)


@pytest.mark.parametrize("command", [["attach", "-p", "5000", "FILE"], ["exec", "-p", "5000", "FILE", "sleep 1d"]])
def test_mlflow_is_opened_through_ssh_and_has_every_trial(cluster: Cluster, command: list[str]) -> None:
    with cluster.laptop.open("ray", *(cluster.file if word == "FILE" else word for word in command)):
        until(lambda: answer(f"{MLFLOW}/health")[0] == 200, seconds=120, what="MLflow")
        assert "<title>MLflow</title>" in answer(MLFLOW)[1]
        found = answer(f"{MLFLOW}/api/2.0/mlflow/experiments/get-by-name?experiment_name={drivers.NAME}")[1]
        body = {"experiment_ids": [json.loads(found)["experiment"]["experiment_id"]], "max_results": 100}
        asked = urllib.request.Request(
            f"{MLFLOW}/api/2.0/mlflow/runs/search",
            data=json.dumps(body | {"filter": "tags.kind = 'trial'"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=20) as answered:
            runs = json.loads(answered.read())["runs"]
    assert [run["info"]["status"] for run in runs] == ["FINISHED"] * TRIALS


def test_ray_down_and_the_line_in_the_file_end_everything(cluster: Cluster) -> None:
    cluster.laptop.run("ray", "down", "-y", cluster.file)
    assert not processes(cluster, HEAD, "raylet")
    line = next(line for line in FILE.read_text().splitlines() if line.startswith("#   for host in "))
    command = line.partition("ssh me@$host '")[2].partition("'; done")[0]
    for address in cluster.hosts.up:
        cluster.hosts.ssh(address, command)
        until_gone(cluster, address, "ray")
        until_gone(cluster, address, "mlflow")
