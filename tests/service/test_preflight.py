"""The preflight: a sound cluster file passes, and each thing that `ray up` would stumble over later is named."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps import preflight
from sweeps.cluster import cluster_file

TOKEN = "~/.ray/auth_token"
ROOT = Path(__file__).parents[2]


def node(**more: Any) -> dict[str, Any]:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True}}
    return {
        "InstanceType": "m6i.xlarge",
        "ImageId": "ami-0123456789abcdef0",
        "MetadataOptions": {"HttpTokens": "required"},
        "BlockDeviceMappings": [disk],
    } | more


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, Any]:
    (token := tmp_path / "auth_token").write_text("secret")
    token.chmod(0o600)
    return {
        "cluster_name": "try",
        "max_workers": 2,
        "provider": {"type": "aws", "region": "us-east-1", "security_group": {"GroupName": "mine"}},
        "auth": {"ssh_user": "ubuntu"},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": node()},
            "worker": {"max_workers": 2, "resources": {"CPU": 4, "GPU": 1}, "node_config": node()},
        },
        "file_mounts": {TOKEN: str(token)},
        "setup_commands": ["chmod 600 ~/.ray/auth_token", "export RAY_AUTH_MODE=token"],
        "head_start_ray_commands": ["ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml"],
        "worker_start_ray_commands": ["ray start --address=$RAY_HEAD_IP:6379"],
    }


def problems(config: dict[str, Any]) -> dict[str, list[str]]:
    return {what: found for what, check in cluster_file.CHECKS.items() if (found := list(check(config)))}


def test_a_sound_file_passes(sound: dict[str, Any]) -> None:
    assert problems(sound) == {}


def worker(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["available_node_types"]["worker"]
    return found


WORLD = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
HEAD_START = "ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml"
WRONG: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "key": ("Ray's own validation", "max_wrkers", lambda c: c.update(max_wrkers=3)),
    "resources": ("Ray's own validation", "1.5", lambda c: worker(c)["resources"].update(GPU=1.5)),
    "head type": ("Ray's own validation", "head_node_type", lambda c: c.update(head_node_type="boss")),
    "placeholder": (
        "values filled in",
        "SubnetId still says",
        lambda c: worker(c)["node_config"].update(SubnetId="subnet-CHANGEME"),
    ),
    "provider key": ("provider", "regoin", lambda c: c["provider"].update(regoin="x")),
    "too many": ("node types", "worker.max_workers is 9", lambda c: worker(c).update(max_workers=9)),
    "no image": ("node types", "ImageId", lambda c: worker(c)["node_config"].pop("ImageId")),
    "EC2's model": ("node_config (EC2)", "InstanceTyp", lambda c: worker(c)["node_config"].update(InstanceTyp="x")),
    "syntax": ("shell syntax", "unexpected", lambda c: c["setup_commands"].append("if true; then echo")),
    "no scaling": (
        "start commands",
        "--autoscaling-config",
        lambda c: c.update(head_start_ray_commands=["ray start --head"]),
    ),
    "no head": ("start commands", "RAY_HEAD_IP", lambda c: c.update(worker_start_ray_commands=["ray start"])),
    "no file": ("files to copy", "/nowhere", lambda c: c["file_mounts"].update({"~/x": "/nowhere"})),
    "nightly": ("software", "nightly", lambda c: c["setup_commands"].append("pip install ray-nightly")),
    "no mode": ("token", "RAY_AUTH_MODE", lambda c: c["setup_commands"].pop()),
    "no token": ("token", "auth_token", lambda c: c.pop("file_mounts")),
    "dashboard": (
        "dashboard",
        "0.0.0.0",
        lambda c: c.update(head_start_ray_commands=[HEAD_START + " --dashboard-host=0.0.0.0"]),
    ),
    "open door": (
        "security groups",
        "port 22",
        lambda c: c["provider"]["security_group"].update(IpPermissions=[WORLD]),
    ),
    "Ray's group": ("security groups", "GroupName", lambda c: c["provider"].pop("security_group")),
    "metadata": ("disks and metadata", "HttpTokens", lambda c: worker(c)["node_config"].pop("MetadataOptions")),
    "clear disk": ("disks and metadata", "Encrypted", lambda c: worker(c)["node_config"].pop("BlockDeviceMappings")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_ray_up_would_stumble_over_is_named(sound: dict[str, Any], wrong: str) -> None:
    what, word, break_it = WRONG[wrong]
    config = copy.deepcopy(sound)
    break_it(config)
    assert word in "\n".join(problems(config)[what])


def test_a_token_that_others_can_read_is_named(sound: dict[str, Any]) -> None:
    token = Path(sound["file_mounts"][TOKEN])
    token.chmod(0o644)
    assert "chmod 600" in problems(sound)["token"][0]


def test_machines_of_ones_own_need_the_first_autoscaler(sound: dict[str, Any]) -> None:
    config = {key: value for key, value in sound.items() if key not in ("available_node_types", "head_node_type")}
    config |= {"provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}, "max_workers": 1}
    assert set(problems(config)) == {"start commands"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [f"RAY_enable_autoscaler_v2=0 {command}" for command in config[key]]
    assert problems(config) == {}
    del config["provider"]["worker_ips"]
    assert "worker_ips" in problems(config)["Ray's own validation"][0]


def test_the_command_tells_a_sound_file_from_a_broken_one(
    sound: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "cluster.yaml").write_text(yaml.safe_dump(sound))
    assert preflight.main([str(path)]) == 0
    path.write_text(yaml.safe_dump(sound | {"file_mounts": {}}))
    assert preflight.main([str(path)]) == 1
    assert "auth_token" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[", "just words", "provider: aws"])
def test_what_is_no_cluster_file_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "cluster.yaml").write_text(text)
    assert preflight.main([str(path)]) == 2
    assert "cluster.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("local_ray")
def test_the_nodes_of_a_cluster_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.main(["--storage", str(tmp_path), "--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "ray 2.60" in said
    assert "none: trials run on CPUs" in said


def test_an_mlflow_that_does_not_answer_is_wrong() -> None:
    assert preflight._mlflow("http://127.0.0.1:9").fine is False
    assert preflight._mlflow(None).fine is None
