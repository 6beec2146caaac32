"""Backbones: those of a plan looked at by their configurations alone, before a recording is decoded or weights come,
and whether what trains them is installed.
"""

from pathlib import Path

from audioconfit import encoders
from audioconfit.backbones import BACKBONES
from audioconfit.encoders import adapters
from audioconfit.errors import InputError
from sweeps.request.plan import Plan


def folders(plan: Plan) -> list[Path]:
    """The backbones that are folders."""
    return [Path(name) for name in plan.backbones if _is_folder(name)]


def absolute(plan: Plan) -> Plan:
    """The same by names that hold on every node: processes of a cluster have working folders of their own."""
    names = tuple(str(Path(name).absolute()) if _is_folder(name) else name for name in plan.backbones)
    return plan.model_copy(update={"backbones": names})


def check(plan: Plan) -> None:
    """Refuses backbones that cannot be used. What a hub that cannot be asked says of one, a dry run does without.

    Raises:
        InputError: a line per backbone.
    """
    problems = []
    for name in plan.backbones:
        try:
            encoders.check(name)
        except InputError as error:
            if not (plan.dry_run and isinstance(error, encoders.Unreachable)):
                problems.append(str(error))
    if plan.settings.get("tune") == "lora":
        try:
            adapters.check()
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))


def _is_folder(name: str) -> bool:
    return name not in BACKBONES and Path(name).is_dir()
