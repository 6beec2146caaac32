"""The command line of a sweep, derived from the fields of Plan: help, defaults and types are said there and once."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from audioconfit import corpora
from audioconfit.corpora.clips import is_text
from audioconfit.errors import InputError
from sweeps.faults import masked
from sweeps.request.plan import PAPER_BACKBONES, Flag, Group, Plan

ALL = "all"
LAYERS_SEARCHED = ("layer=all", "layers=all")  # as --search has it
ENVIRONMENT = dict(os.environ)  # as the user set it: MLflow writes its own variable


def _flag(field: FieldInfo) -> Flag:
    (flag,) = (entry for entry in field.metadata if isinstance(entry, Flag))
    return flag


# What a cluster's nodes set once, so that the same command works on a laptop, on the head and as a job.
VARIABLES = {name: known for name, field in Plan.model_fields.items() if (known := _flag(field).variable)}

# Small enough for two minutes on two cores, large enough to show every part at work.
DEMO: dict[str, Any] = {
    "datasets": "timit,esc50",
    "backbones": "wav2vec2-tiny,wavlm-tiny",
    "name": "demo",
    "trials": 4,
    "epochs": 14,
    "batch_sizes": "16,32",
    "seeds": 2,
    "finalists": 2,
}

EXAMPLES = """examples:
  python sweeps/grid.py --demo                                       see it work: no data, network or GPU
  python sweeps/grid.py --datasets all --data data --dry-run         the paper's grid: what it would cost
  python sweeps/grid.py --datasets my/recordings --backbones wav2vec2-tiny --trials 8
  python sweeps/grid.py --datasets esc50 --methods pairtune,finetune --set mining=hardest --name hardest
"""


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = ENVIRONMENT) -> Plan:
    """The plan of a command line; the environment fills in where things are.

    Raises:
        InputError: one line per thing that is wrong, each with the value and the way out.
    """
    return _plan(vars(_parser().parse_args(arguments)), environment)


def of(words: Mapping[str, Any], environment: Mapping[str, str] = ENVIRONMENT) -> Plan:
    """The plan of flags as Python has them: their names with underscores, lists in place of commas, `set` a mapping.

    Raises:
        InputError: as `parse`, and for a word that is no flag.
    """
    fields = {(_flag(field).name or name).replace("-", "_"): name for name, field in Plan.model_fields.items()}
    if unknown := sorted(set(words) - set(fields)):
        raise InputError(f"No flag is called {', '.join(unknown)}; choose from {', '.join(sorted(fields))}.")
    named = {fields[name]: value for name, value in words.items() if value is not None}
    given = {name: READERS.get(name, _word_of)(value) for name, value in named.items()}
    if wrong := [name for name, value in given.items() if name in READERS and value is None]:
        refused = (f"{_option(name, Plan.model_fields[name])} {named[name]!r}" for name in wrong)
        raise InputError("\n".join(f"{one}: This is neither a word nor a list of words." for one in refused))
    return _plan(given, environment)


def _word_of(value: Any) -> Any:
    """As it would be typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def _list_of(value: Any) -> str | None:
    """As it would be typed, with commas. None: nobody could type it."""
    return str(_word_of(value)) if isinstance(value, str | int | float | list | tuple | Path) else None


def _words_of(value: Any) -> tuple[str, ...] | None:
    """NAME=VALUE for --set and --search, as they would be typed. None: nobody could type them."""
    if isinstance(value, Mapping):
        return tuple(_assigned(name, one) for name, one in value.items())
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return tuple(value)
    return tuple(value.split()) if isinstance(value, str) else None


# How Python's words are read that are no single value.
READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("datasets", "backbones", "methods", "batch_sizes", "chunks"), _list_of),
    **dict.fromkeys(("settings", "search"), _words_of),
}


def _assigned(name: str, value: Any) -> str:
    """NAME=VALUE for --set."""
    return f"{name}={str(value).lower() if isinstance(value, bool) else _word_of(value)}"


def _plan(given: Mapping[str, Any], environment: Mapping[str, str]) -> Plan:
    given = {name: value for name, value in given.items() if value is not None}
    values = _from_environment(environment) | (DEMO if given.get("demo") else {}) | given
    if not _parts(values.get("datasets", "")):
        raise InputError(
            "Say what to learn: --datasets all, --datasets emodb,esc50, a path of your own, or --demo to see it work "
            "without data."
        )
    values["datasets"] = _expand(values["datasets"], tuple(sorted(corpora.CORPORA)))
    values["backbones"] = _expand(values.get("backbones", ALL), PAPER_BACKBONES)
    for name in ("methods", "batch_sizes", "chunks"):
        if name in values:
            values[name] = _parts(values[name])
    if "settings" in values:
        values["settings"] = dict(map(_setting, values["settings"]))
    _search_layers(values)
    for name in ("epochs", "probe"):
        if name in given and any(word.startswith(f"{name}=") for word in values.get("search", ())):
            raise InputError(f"--search: {name} is set and searched; leave one of the two.")
    return _validated(values)


def _search_layers(values: dict[str, Any]) -> None:
    """`--search layer=all` is another word for `--set layers=all`."""
    words = values.get("search", ())
    if not any(word in LAYERS_SEARCHED for word in words):
        return
    values["search"] = tuple(word for word in words if word not in LAYERS_SEARCHED)
    values["settings"] = {"layers": "all"} | values.get("settings", {})
    if values["settings"]["layers"] != "all":
        raise InputError("--search: layers is set and searched; leave one of the two.")


def places(environment: Mapping[str, str] = ENVIRONMENT, **given: Any) -> Plan:
    """A plan that learns nothing and only says where things are: for commands that look at what sweeps use or left.

    `given` has fields of Plan; None leaves one to the environment and the default.
    """
    return _validated(
        {"datasets": ()} | _from_environment(environment) | {name: at for name, at in given.items() if at is not None}
    )


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[known] for name, known in VARIABLES.items() if environment.get(known)}


def _validated(values: dict[str, Any]) -> Plan:
    _refuse_what_is_no_text(values)
    try:
        plan = Plan(**values)
    except ValidationError as error:
        raise InputError("\n".join(_sentence(problem) for problem in error.errors())) from None
    _refuse_what_is_no_text({"storage": plan.storage.absolute()})  # in the folder that we are in
    return plan


def _refuse_what_is_no_text(values: Mapping[str, Any]) -> None:
    """InputError where a flag has bytes that are no UTF-8, or a lone surrogate: no database keeps it."""
    for name, value in values.items():
        odd = next((word for word in _words(value) if not is_text(word)), None)
        if odd is not None:
            flag = _option(name, Plan.model_fields[name])
            raise InputError(f"{flag} {masked(repr(odd))}: This is no Unicode text. Rename it, or call it otherwise.")


def _words(value: Any) -> Iterator[str]:
    """The words in a flag's value, whatever Python has given."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            yield from _words(one)
    elif isinstance(value, Path):
        yield str(value)
    elif isinstance(value, str):
        yield value


def _sentence(problem: Any) -> str:
    name = str(problem["loc"][0])
    flag = _option(name, Plan.model_fields[name])
    if problem["type"] == "value_error":
        return f"{flag}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{flag} {problem['input']}: {problem['msg']}."


def _expand(names: str, everything: tuple[str, ...]) -> tuple[str, ...]:
    chosen = _parts(names)
    return everything if chosen == (ALL,) else tuple(dict.fromkeys(chosen))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _setting(word: str) -> tuple[str, Any]:
    """NAME=VALUE as the recipe wants it: a list of augmentations, a number, true or false, else a word."""
    name, equals, text = word.partition("=")
    if not equals:
        raise InputError(f"--set {word}: This is not NAME=VALUE, such as --set mining=hardest.")
    if name == "augment":
        return name, _parts(text)
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):
        return name, text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/grid.py",
        description="Sweep a grid of backbones x datasets: search, confirm on test, register the best probe per task. "
        "The same command with the same --name goes on where it stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = {group: parser.add_argument_group(group) for group in Group}
    for name, field in Plan.model_fields.items():
        flag = _flag(field)
        groups[flag.group].add_argument(_option(name, field), dest=name, default=None, **_arguments(flag, field))
    return parser


def _arguments(flag: Flag, field: FieldInfo) -> dict[str, Any]:
    """How argparse reads the flag. It leaves types to Plan, which names every wrong value at once."""
    if isinstance(field.default, bool):
        return {"action": "store_false" if field.default else "store_true", "help": flag.help}
    if flag.metavar == "NAME=VALUES":
        return {"action": "extend", "nargs": "+", "metavar": flag.metavar, "help": flag.help}
    if flag.name == "set":
        return {"action": "append", "metavar": flag.metavar, "help": flag.help}
    if choices := get_args(field.annotation) if flag.metavar is None else ():
        return {"choices": choices, "help": f"{flag.help} (default: {field.default})"}
    return {"metavar": flag.metavar, "help": f"{flag.help}{_default(flag, field)}".replace("%", "%%")}


def _default(flag: Flag, field: FieldInfo) -> str:
    shown = "" if field.is_required() or field.default is None else _word(field.default)
    said = [f"${flag.variable}"] if flag.variable else []
    if not shown and said:
        return f"; also {said[0]}"
    return f" (default: {', else '.join([*said, shown])})" if shown else ""


def _word(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _option(name: str, field: FieldInfo) -> str:
    word = f"--{(_flag(field).name or name).replace('_', '-')}"
    return word.replace("--", "--no-", 1) if field.default is True else word
