"""`ray up cluster.yaml` on an AWS that is a moto server and test hosts, one booted for every instance. The tests are a
user's session in order, on one cluster. What moto does not do is not tested: permissions, quotas, images, GPUs.

About 6 minutes on two cores.
"""

import ast
import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drivers
import makers
import pytest
import yaml
from cluster import cloud, hosts, laptop
from cluster.cloud import Booter
from cluster.hosts import OWN_ADDRESS, Hosts
from cluster.laptop import Laptop, until
from drivers import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not())),
]

FILE, ACCOUNT = ROOT / "cluster.yaml", ROOT / "sweeps" / "cluster" / "account.yaml"
TRIALS = 4


@dataclass(frozen=True)
class Cluster:
    """The instances' hosts, the laptop, the file that `ray up` is given, and the folder that all instances see."""

    booter: Booter
    laptop: Laptop
    file: str
    shared: Path


def for_test_hosts(group: str) -> dict[str, Any]:
    """The file with the account's security group, private addresses, an environment that is there already instead of
    the installation, and a shorter patience with idle workers.
    """
    config = yaml.safe_load(FILE.read_text())
    for kind in config["available_node_types"].values():
        kind["node_config"]["SecurityGroupIds"] = [group]
    config["provider"]["use_internal_ips"] = True
    config["auth"]["ssh_user"] = "root"
    config["idle_timeout_minutes"] = 1
    config["setup_commands"] = laptop.without_installing(config["setup_commands"], f"ln -sfn {sys.prefix} ~/venv")
    config["head_setup_commands"] = laptop.without_installing(config["head_setup_commands"], "true")
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An account in which account.yaml was deployed and `ray up` was run."""
    folder = tmp_path_factory.mktemp("aws")
    shared, file = folder / "shared", folder / "cluster.yaml"
    makers.tones(shared / "data" / "tones", classes=4, clips=20, noise=7.0)
    with (
        hosts.network(),
        cloud.server(folder / "moto.log"),
        Hosts(folder / "hosts", shared, cloud.ENVIRONMENT) as machines,
    ):
        group = deploy(ACCOUNT, vpc=cloud.only_subnet())
        file.write_text(yaml.safe_dump(for_test_hosts(group), sort_keys=False, width=1000))
        user = Laptop(folder / "laptop", cloud.ENVIRONMENT)
        booter = Booter(machines, keys=user.home / ".ssh")
        try:
            user.start(file)
            yield Cluster(booter, user, str(file), shared)
        finally:
            booter.close()
    assert booter.error is None


def deploy(template: Path, *, vpc: str) -> str:
    """`aws cloudformation deploy`; returns the security group's id."""
    parameters = {"Vpc": vpc, "Laptop": f"{OWN_ADDRESS}/32"}
    cloudformation = cloud.client("cloudformation")
    cloudformation.create_stack(
        StackName="audioconfit",
        TemplateBody=template.read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    (stack,) = cloudformation.describe_stacks(StackName="audioconfit")["Stacks"]
    return str(stack["Outputs"][0]["OutputValue"])


def submit(cluster: Cluster, name: str, *command: str) -> None:
    """`ray job submit --no-wait` on the head: the laptop may be closed after it."""
    words = " ".join(command)
    cluster.laptop.run(
        *(
            "ray",
            "exec",
            cluster.file,
            f"cd ~/audioconfit && ray job submit --no-wait --submission-id {name} -- {words}",
        )
    )


def said(cluster: Cluster, name: str) -> str:
    return cluster.laptop.run("ray", "exec", cluster.file, f"ray job logs {name}; ray job status {name}")


def workers() -> list[str]:
    """The ids of the workers that run."""
    return [one["InstanceId"] for one in cloud.running("worker")]


def statements(role: str) -> list[dict[str, Any]]:
    """What a role may do: its own policies and those attached to it."""
    iam = cloud.client("iam")
    assert not iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    named = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in named]
    return [
        one for document in documents for one in ast.literal_eval(document)["Statement"]
    ]  # moto gives a dict's repr


def assert_recorded(instance: dict[str, Any], kind: str, disk_gigabytes: int) -> None:
    """What the cloud knows of an instance is what the file says."""
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/audioconfit-{kind}")
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["audioconfit"]
    expected = {"project": "audioconfit", "ray-cluster-name": "audioconfit", "ray-node-type": kind}
    assert cloud.tags(instance).items() >= expected.items()
    (mapping,) = instance["BlockDeviceMappings"]
    assert mapping["Ebs"]["DeleteOnTermination"]
    (disk,) = cloud.client("ec2").describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    assert (disk["Encrypted"], disk["VolumeType"], disk["Size"]) == (True, "gp3", disk_gigabytes)
    assert {"Key": "project", "Value": "audioconfit"} in disk["Tags"]


def test_the_file_differs_from_ours_only_in_group_addresses_installation_and_patience() -> None:
    ours = yaml.safe_load(FILE.read_text())
    assert set(laptop.differences(ours, for_test_hosts("sg-0"))) == {
        *(f"available_node_types.{kind}.node_config.SecurityGroupIds.0" for kind in ("head", "worker")),
        *("provider.use_internal_ips", "auth.ssh_user", "idle_timeout_minutes"),
        *(f"setup_commands.{number}" for number in (3, 4, 5)),
        *(f"head_setup_commands.{number}" for number in (0, 2)),
    }


def test_the_head_is_up_and_no_worker(cluster: Cluster) -> None:
    (head,) = cloud.instances()
    assert_recorded(head, "head", disk_gigabytes=200)
    assert "1 head" in cluster.laptop.run("ray", "exec", cluster.file, "ray status")


def test_only_ssh_from_the_laptop_comes_in(cluster: Cluster) -> None:
    groups = cloud.client("ec2").describe_security_groups()["SecurityGroups"]
    (group,) = (group for group in groups if group["GroupName"] != "default")  # Ray made none of its own
    ssh, among_nodes = sorted(group["IpPermissions"], key=lambda rule: rule["IpProtocol"], reverse=True)
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpRanges"]) == (22, 22, [{"CidrIp": f"{OWN_ADDRESS}/32"}])
    assert [pair["GroupId"] for pair in among_nodes["UserIdGroupPairs"]] == [group["GroupId"]]
    assert not among_nodes["IpRanges"]
    assert not ssh["UserIdGroupPairs"]


def test_without_a_group_of_ones_own_nothing_starts(cluster: Cluster) -> None:
    with pytest.raises(AssertionError, match="Failed to detect a security group"):
        cluster.laptop.run("ray", "up", "-y", str(FILE))
    assert len(cloud.instances()) == 1


def test_roles_may_do_little(cluster: Cluster) -> None:
    assert statements("audioconfit-worker") == []
    may = {action: one for one in statements("audioconfit-head") for action in as_list(one["Action"])}
    assert may.keys() == {
        *("ec2:Describe*", "ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags"),
        *("iam:PassRole", "iam:CreateServiceLinkedRole", "ssm:GetParameters"),
    }
    assert may["iam:PassRole"]["Resource"].endswith(":role/audioconfit-worker")
    condition = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "audioconfit"}}
    assert may["ec2:TerminateInstances"]["Condition"] == condition
    roles = {role["RoleName"] for role in cloud.client("iam").list_roles()["Roles"]}
    assert roles == {"audioconfit-head", "audioconfit-worker"}, "Ray made one of its own"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_nothing_outside_can_be_reached(cluster: Cluster) -> None:
    with socket.socket() as outside:
        assert outside.connect_ex(("192.0.2.1", 443)) == errno.ENETUNREACH


def test_a_demand_for_a_gpu_brings_a_spot_worker(cluster: Cluster) -> None:
    task = "ray.remote(num_gpus=1)(ray.util.get_node_ip_address).remote()"
    submit(cluster, "gpu", "python", "-c", f'"import ray; ray.init(log_to_driver=False); print(ray.get({task}))"')
    until(workers, seconds=240, what="a worker")
    (worker,) = cloud.running("worker")
    assert worker["InstanceLifecycle"] == "spot"
    assert worker["InstanceType"] == "g6.xlarge"
    assert_recorded(worker, "worker", disk_gigabytes=120)
    until(lambda: worker["PrivateIpAddress"] in said(cluster, "gpu"), seconds=240, what="the task's answer")


def test_a_sweep_survives_the_reclaim_of_its_spot_worker(cluster: Cluster) -> None:
    storage, backbone = cluster.shared / "storage", drivers.CELL.partition(".")[0]
    sweep = (
        "python ~/audioconfit/sweeps/grid.py --datasets /srv/audioconfit/data/tones "
        f"--backbones {backbone} --name {drivers.NAME} --trials {TRIALS} --epochs 24 --seeds 1 "
        "--batch-sizes 8,16 --chunks 0.25,0.5 --slots 1 --gpus-per-worker 0 "
        "--select holdout"
    )
    submit(cluster, drivers.NAME, sweep)
    until(lambda: drivers.reported(storage, 0), seconds=480, what="a trial")
    (taken,) = workers()
    cloud.client("ec2").terminate_instances(InstanceIds=[taken])  # spot's two minutes' notice helps nobody here
    until(lambda: set(workers()) - {taken}, seconds=600, what="another worker")

    until(lambda: "RUNNING" not in said(cluster, drivers.NAME), seconds=480, what="the end of the sweep")
    log = said(cluster, drivers.NAME)
    assert f"Job '{drivers.NAME}' succeeded" in log, log
    assert "audioconfit-tones version 1" in log
    assert "its worker died" in (storage / drivers.NAME / "slots.log").read_text()
    (storage / "mlflow.db").symlink_to("../mlflow/mlflow.db")  # where the audit looks for it
    drivers.audit(storage, trials=TRIALS)


def test_an_idle_worker_goes_away(cluster: Cluster) -> None:
    until(lambda: not workers(), seconds=480, what="the end of the idle worker")
    assert len(cloud.running()) == 1


def test_ray_down_leaves_nothing_running(cluster: Cluster) -> None:
    cluster.laptop.run("ray", "down", "-y", cluster.file)
    assert {one["State"]["Name"] for one in cloud.instances()} <= {"terminated", "shutting-down"}
    assert not cloud.client("ec2").describe_volumes(Filters=[{"Name": "status", "Values": ["in-use"]}])["Volumes"]
