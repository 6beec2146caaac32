"""Backbones: those of a plan looked at by their configurations alone, before a recording is decoded or weights come,
and whether what trains them is installed.
"""

from audioconfit import encoders
from audioconfit.encoders import adapters
from audioconfit.errors import InputError
from sweeps.request.plan import Plan


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
