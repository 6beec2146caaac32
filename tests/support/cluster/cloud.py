"""The cloud: a moto server that speaks EC2, IAM and CloudFormation, and a thread that boots a test host for every
instance that it says is running, and ends it with the instance.
"""

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from cluster.hosts import OWN_ADDRESS, Hosts

PORT = 5600
REGION = "us-east-1"
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://{OWN_ADDRESS}:{PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
NETWORK, SUBNET = "10.77.0.0/16", "10.77.16.0/20"


def client(service: str) -> Any:
    """Of the moto server, whatever the environment says."""
    return boto3.client(
        service,
        endpoint_url=ENVIRONMENT["AWS_ENDPOINT_URL"],
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@contextmanager
def server(log: Path) -> Iterator[None]:
    """A moto server at OWN_ADDRESS, in an account whose only subnet lies in the test hosts' network."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", OWN_ADDRESS, "-p", str(PORT)],
            stdout=said,
            stderr=said,
            env={"MOTO_ENABLE_KEYPAIR_VALIDATION": "true", "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true"},
        )
    try:
        _wait_for_server()
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for_server() -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{ENVIRONMENT['AWS_ENDPOINT_URL']}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the moto server does not answer"
            time.sleep(0.2)


def only_subnet() -> str:
    """Makes the one network that the account has; returns its id."""
    ec2 = client("ec2")
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    network = ec2.create_vpc(CidrBlock=NETWORK)["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=network, CidrBlock=SUBNET, AvailabilityZone=f"{REGION}a")
    return str(network)


def instances() -> list[dict[str, Any]]:
    """All that were ever started, the oldest first."""
    found = client("ec2").describe_instances()["Reservations"]
    return sorted((one for group in found for one in group["Instances"]), key=lambda one: one["LaunchTime"])


def running(kind: str = "") -> list[dict[str, Any]]:
    """Those that run; `kind` is head or worker."""
    return [one for one in instances() if one["State"]["Name"] == "running" and kind in tags(one)["ray-node-type"]]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@dataclass
class Booter:
    """Keeps hosts and instances alike, in a thread, until closed."""

    hosts: Hosts
    keys: Path  # where `ray up` puts the private keys of the pairs that it makes
    booted: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.thread.join()

    def _run(self) -> None:
        try:
            while not self.closing.wait(0.5):
                self._follow()
        except BaseException as error:
            self.error = error

    def _follow(self) -> None:
        for instance in instances():
            known, runs = instance["InstanceId"], instance["State"]["Name"] == "running"
            if runs and known not in self.booted:
                address = instance["PrivateIpAddress"]
                self.hosts.boot(address)
                self._let_in(address, self.keys / f"{instance['KeyName']}.pem")
                self.booted[known] = address
            elif not runs and self.booted.get(known) in self.hosts.up:
                self.hosts.kill(self.booted[known])

    def _let_in(self, address: str, key: Path) -> None:
        """What cloud-init does with the instance's key pair."""
        public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, text=True, check=True).stdout
        self.hosts.ssh(address, "cat >> .ssh/authorized_keys", input=public)
