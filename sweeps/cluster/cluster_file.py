"""The cluster file: what is wrong with a `cluster.yaml` before `ray up` spends money on it.

Ray's own validation knows the outer keys and the node types' shape. It lets pass what is in a provider and in a
node_config, commands that no shell can read, files that are not there, and doors that stand open: that is looked at
here. Nothing is contacted.
"""

import contextlib
import copy
import io
import logging
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import yaml
from ray.autoscaler._private import util

from audioconfit.errors import InputError

Config = dict[str, Any]
Check = Callable[[Config], Iterator[str]]

PROVIDER_KEYS = {
    "aws": {
        *("type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "use_external_head_ip"),
        *("security_group", "key_pair", "cloudwatch", "aws_credentials"),
    },
    "local": {"type", "head_ip", "worker_ips", "coordinator_address", "use_internal_ips"},
}

COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
EVERYBODY = {"0.0.0.0/0", "::/0"}
LEFT_TO_FILL_IN = re.compile(r"CHANGE[-_ ]?ME|REPLACE|<[^>\n]*>|XXXX", re.IGNORECASE)


class Unavailable(Exception):  # noqa: N818
    """A check cannot be made here: says what it takes."""


def read(path: Path) -> Config:
    """The file as it stands. InputError: it cannot be read, or is no YAML mapping."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        raise InputError(f"{path} is no cluster file: it needs a `provider` with a `type` (aws, local).")
    return config


def _ray(config: Config) -> Iterator[str]:
    """Ray's own validation, on the file with Ray's defaults filled in."""
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.WARNING)
    said = io.StringIO()  # some of what is wrong is printed, with hints that do not matter
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            util.validate_config(util.prepare_config(copy.deepcopy(config)))
    except click.ClickException:
        yield said.getvalue().strip().splitlines()[-1]
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        yield f"{place}: {error.message.splitlines()[0][:200]}"
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        yield str(error)


def _provider(config: Config) -> Iterator[str]:
    """Keys of the provider that Ray reads; it overlooks others."""
    provider = config["provider"]
    known = PROVIDER_KEYS.get(provider.get("type", ""))
    if known is None:
        raise Unavailable(f"provider {provider.get('type')!r} is not known here; known: {', '.join(PROVIDER_KEYS)}")
    for key in sorted(set(provider) - known):
        yield f"provider.{key} is no key of Ray's {provider['type']} provider; known: {', '.join(sorted(known))}"


def _node_types(config: Config) -> Iterator[str]:
    """Counts that can be met, and an image for each: without one Ray takes its own, old one."""
    for name, kind in _types(config):
        most, together = kind.get("max_workers"), config.get("max_workers", 2)
        if most is not None and most > together:
            yield f"{name}.max_workers is {most}, but max_workers of the whole cluster is {together}: raise that"
        if config["provider"].get("type") == "aws" and not kind.get("node_config", {}).get("ImageId"):
            yield f"{name}.node_config has no ImageId, so Ray would take an old image of its own: name one"


def _node_config(config: Config) -> Iterator[str]:
    """node_config against botocore's own model of RunInstances, which `ray up` hands it to."""
    if config["provider"].get("type") != "aws":
        return
    try:
        import botocore.session
        from botocore.validate import ParamValidator
    except ImportError:
        raise Unavailable("pip install boto3, which `ray up` needs on AWS, too") from None
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in _types(config):
        # Ray takes SubnetIds out and sets the counts.
        asked = {key: value for key, value in kind.get("node_config", {}).items() if key != "SubnetIds"}
        report = ParamValidator().validate(asked | {"MinCount": 1, "MaxCount": 1}, model)
        if report.has_errors():
            yield from (f"{name}.node_config: {line}" for line in report.generate_report().splitlines())


def _shell(config: Config) -> Iterator[str]:
    """Commands that a shell can read."""
    for place, command in _commands(config):
        read = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
        if read.returncode:
            yield f"{place}: {read.stderr.strip().splitlines()[-1]}: {_short(command)}"


def _starts(config: Config) -> Iterator[str]:
    """A head that scales and workers that find it."""
    head, worker = _starts_of(config, "head"), _starts_of(config, "worker")
    if head and not any("--autoscaling-config" in command for command in head):
        yield "head_start_ray_commands: `ray start --head` without --autoscaling-config=~/ray_bootstrap_config.yaml"
    if worker and not any("RAY_HEAD_IP" in command for command in worker):
        yield "worker_start_ray_commands: `ray start` without --address=$RAY_HEAD_IP:6379 joins no head"
    if config["provider"].get("type") == "local":
        for command in (*head, *worker):
            if "RAY_enable_autoscaler_v2=0" not in command:
                yield f"with provider local only one worker joins unless RAY_enable_autoscaler_v2=0: {_short(command)}"


def _mounts(config: Config) -> Iterator[str]:
    """Files that are to be copied, and are there."""
    for target, source in (config.get("file_mounts") or {}).items():
        if not Path(source).expanduser().exists():
            yield f"file_mounts: {source} (for {target}) is not there"


def _token(config: Config) -> Iterator[str]:
    """Token authentication on every node, with a token that others on this machine cannot read."""
    if not any("RAY_AUTH_MODE=token" in command for _, command in _commands(config)):
        yield "no command sets RAY_AUTH_MODE=token on the nodes: whoever reaches the head runs code on it"
    source = next((source for target, source in _mounts_of(config) if target.endswith(".ray/auth_token")), None)
    if source is None:
        yield "file_mounts: no ~/.ray/auth_token; make one with `ray get-auth-token --generate` and mount it"
    elif (token := Path(source).expanduser()).exists() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"{token} can be read by others: chmod 600 {token}"


def _dashboard(config: Config) -> Iterator[str]:
    """A dashboard, which runs code for whoever reaches it, on loopback."""
    for command in _starts_of(config, "head"):
        host = re.search(r"--dashboard-host[= ]\s*(\S+)", command)
        if host and host[1] not in ("127.0.0.1", "localhost"):
            yield f"--dashboard-host={host[1]}: leave it on 127.0.0.1 and open it with `ray dashboard`"


def _doors(config: Config) -> Iterator[str]:
    """A security group of one's own: the one that Ray makes lets the whole internet reach ssh, whatever is added."""
    if config["provider"].get("type") != "aws":
        return
    group = config["provider"].get("security_group") or {}
    for rule in group.get("IpPermissions", []):
        ranges = [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]
        if EVERYBODY & {each.get("CidrIp", each.get("CidrIpv6")) for each in ranges}:
            yield f"provider.security_group opens port {rule.get('FromPort', 'any')} to the whole internet"
    for name, kind in _types(config):
        node = kind.get("node_config", {})
        named = [group for interface in node.get("NetworkInterfaces", []) for group in interface.get("Groups", [])]
        if not (named or node.get("SecurityGroupIds") or group.get("GroupName")):
            yield (
                f"{name} is in no security group of your own, so Ray makes one with ssh open to the whole internet: "
                "name one in provider.security_group.GroupName or node_config.SecurityGroupIds"
            )


def _disks(config: Config) -> Iterator[str]:
    """Encrypted disks, and metadata that a fooled web request cannot read (IMDSv2)."""
    if config["provider"].get("type") != "aws":
        return
    for name, kind in _types(config):
        node = kind.get("node_config", {})
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}.node_config: MetadataOptions: {{HttpTokens: required}} is missing (IMDSv2)"
        disks = [disk["Ebs"] for disk in node.get("BlockDeviceMappings", []) if "Ebs" in disk]
        if not disks or not all(disk.get("Encrypted") is True for disk in disks):
            yield f"{name}.node_config: a disk without Encrypted: true"


def _software(config: Config) -> Iterator[str]:
    """Released software only."""
    for place, command in _commands(config):
        if re.search(r"nightly|/latest/ray-|\.dev0", command):
            yield f"{place} installs a nightly build: {_short(command)}"


def _filled_in(config: Config) -> Iterator[str]:
    """No value that its author left for the user to fill in."""
    for place, value in _leaves(config):
        if isinstance(value, str) and (left := LEFT_TO_FILL_IN.search(value)):
            yield f"{place} still says {left[0]!r}"


def problems(check: Check, config: Config) -> list[str]:
    """What a check finds. A value of another kind than Ray takes, which no check expects, is a finding.

    Raises:
        Unavailable: it cannot be made here.
    """
    try:
        return list(check(config))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        return [f"a value is of another kind than Ray takes, so this cannot be looked at: {error}"]


CHECKS: dict[str, Check] = {
    "Ray's own validation": _ray,
    "values filled in": _filled_in,
    "provider": _provider,
    "node types": _node_types,
    "node_config (EC2)": _node_config,
    "shell syntax": _shell,
    "start commands": _starts,
    "files to copy": _mounts,
    "software": _software,
    "token": _token,
    "dashboard": _dashboard,
    "security groups": _doors,
    "disks and metadata": _disks,
}


def _types(config: Config) -> list[tuple[str, Config]]:
    kinds = config.get("available_node_types") or {}
    return [(name, kind) for name, kind in kinds.items() if isinstance(kind, dict)]


def _commands(config: Config) -> Iterator[tuple[str, str]]:
    """Every command of the file, with its place."""
    for key in COMMANDS:
        for owner, place in ((config, key), *((kind, f"{name}.{key}") for name, kind in _types(config))):
            yield from ((place, command) for command in owner.get(key) or [] if isinstance(command, str))


def _starts_of(config: Config, kind: str) -> list[str]:
    commands = [c for c in config.get(f"{kind}_start_ray_commands") or [] if isinstance(c, str)]
    return [command for command in commands if re.search(r"\bray start\b", command)]


def _mounts_of(config: Config) -> list[tuple[str, str]]:
    return list((config.get("file_mounts") or {}).items())


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of the file but its commands, with its place."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield place, value
        return
    for key, inner in pairs:
        if key not in COMMANDS:
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 60 else line[:57] + "..."
