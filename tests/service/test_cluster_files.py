"""The files of clusters, read: each passes the preflight, and what several of them say they say alike."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from sweeps.cluster import cluster_file
from sweeps.request import flags

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster.yaml"
OWN = ROOT / "sweeps" / "cluster" / "own-machines.yaml"
ACCOUNT = ROOT / "sweeps" / "cluster" / "account.yaml"
RAYJOB = ROOT / "sweeps" / "cluster" / "rayjob.yaml"
LOCK = ROOT / "sweeps" / "cluster" / "requirements.lock"
LAPTOPS = {"token", "files to copy"}  # the checks of what is on the laptop, not in the file


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def start(file: Path, node: str) -> dict[str, str]:
    """The flags of a node's `ray start`."""
    (line,) = (command for command in read(file)[f"{node}_start_ray_commands"] if "ray start" in command)
    return dict(re.findall(r"--([a-z-]+)(?:=(\S+))?", line))


@pytest.mark.parametrize("path", [AWS, OWN], ids=lambda path: path.name)
def test_a_file_passes_the_preflight(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # `ray up` is started there
    config = read(path)
    found = {what: list(check(config)) for what, check in cluster_file.CHECKS.items() if what not in LAPTOPS}
    wrong = {what: problems for what, problems in found.items() if problems}
    assert wrong.keys() == ({"values filled in"} if path == AWS else set()), wrong
    assert all("SecurityGroupIds" in problem for problem in wrong.get("values filled in", []))  # the user's own
    missing = [local for local in config["file_mounts"].values() if not Path(local).expanduser().exists()]
    assert missing in ([], ["~/.ray/auth_token"])


def test_all_files_give_nodes_the_same_environment() -> None:
    aws, own = read(AWS)["setup_commands"], read(OWN)["setup_commands"]
    assert aws[:3] == own[:3]
    exported = set(re.findall(r"\b([A-Z_]+)=", aws[1]))
    assert exported >= {"AUDIOCONFIT_STORAGE", "AUDIOCONFIT_DATA", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE", "HF_HOME"}
    assert {name for name in exported if name.startswith(("AUDIOCONFIT", "MLFLOW"))} <= {*flags.VARIABLES.values()}
    head, worker = (containers(group)["env"] for group in rayjob_groups())
    assert head == worker
    assert {one["name"] for one in head} >= exported - {"PATH", "PYTHONPATH", "RAY_AUTH_MODE"}  # the image's, KubeRay's


def test_all_nodes_listen_on_the_same_ports_and_the_dashboard_on_loopback() -> None:
    flags = [start(AWS, "head"), start(AWS, "worker"), start(OWN, "head"), start(OWN, "worker")]
    fixed = {name for name in flags[0] if name.endswith("-port")} - {"port"}
    assert len(fixed) == 8
    assert all({name: one.get(name) for name in fixed} == {name: flags[0][name] for name in fixed} for one in flags)
    assert {flags[0]["dashboard-host"], flags[2]["dashboard-host"]} == {"127.0.0.1"}
    servers = [line for file in (AWS, OWN) for line in read(file)["head_start_ray_commands"] if "mlflow server" in line]
    assert len(servers) == 2
    assert all("--host 127.0.0.1" in line for line in servers)


def test_the_lock_is_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = LOCK.read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in (*project["dependencies"], *project["optional-dependencies"]["aws"]):
        asked = Requirement(text)
        assert locked[asked.name] in asked.specifier, text


def test_the_account_file_is_cloudformation() -> None:
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, "--", ACCOUNT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def rayjob_groups() -> list[dict[str, Any]]:
    """The head's group and the workers'."""
    cluster = read(RAYJOB)["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def containers(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def test_the_rayjob_is_consistent() -> None:
    spec = read(RAYJOB)["spec"]
    head, workers = rayjob_groups()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}" in LOCK.read_text().splitlines()
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert containers(head)["image"] == containers(workers)["image"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    words = spec["entrypoint"].split()
    assert words[words.index("--slots") + 1] == str(workers["maxReplicas"])
    assert flags.parse(words[2:], environment={}).gpus_per_worker == 1


def closed(schema: Any) -> Any:
    """The schema without room for what it does not name: Kubernetes drops such fields in silence."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(part) for key, part in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


CRD = os.environ.get("KUBERAY_CRD")


@pytest.mark.skipif(CRD is None, reason="KUBERAY_CRD does not name KubeRay's ray.io_rayjobs.yaml (config/crd/bases)")
def test_the_rayjob_fits_kuberays_schema() -> None:
    versions = read(Path(str(CRD)))["spec"]["versions"]
    (schema,) = (closed(one["schema"]["openAPIV3Schema"]) for one in versions if one["name"] == "v1")
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    jsonschema.validate(read(RAYJOB), schema)
    misspelt = read(RAYJOB)
    misspelt["spec"]["rayClusterSpec"]["authOption"] = {}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(misspelt, schema)
