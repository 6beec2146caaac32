"""Searched numbers: what `--search NAME=VALUES` asks for beside batch size, chunk duration and the probe's rate."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from audioconfit.errors import InputError
from audioconfit.recipe import FROZEN_FIELDS, METHODS, Recipe

# Read by PairTune alone.
CONTRASTIVE = ("temperature", "mining", "margin", "keep_denominator", "projection_dim", "pair_layer")
# Numbers of the recipe that may be searched; batch_size, chunk_seconds and probe_layer have ways of their own.
SEARCHABLE = (
    *("lr", "epochs", "warmup_steps", "warmup", "probe", "probe_lr", "probe_epochs", "probe_balance"),
    *("schedule", "backbone_lr_decay", "freeze", "lora_rank"),
    *("views", "spec_augment", "layer_drop", *CONTRASTIVE),
)
INSTEAD = {
    "batch_size": "--batch-sizes names what is searched",
    "chunk_seconds": "--chunks names what is searched",
    "probe_layer": "layer=all searches it",
    "layer": "layer=all searches which one the probe reads",
}
GRID_POINTS = 5  # of a range, where every value is tried


@dataclass(frozen=True)
class Searched:
    """One number of the recipe: a choice of values, or a range from `low` to `high`, drawn by its logarithm if `log`.
    `low` and `high` of whole numbers are whole.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the range is of whole numbers."""
        return isinstance(self.low, int)

    @property
    def values(self) -> str:
        """As it is typed behind NAME=, whatever way it was typed."""
        if self.choices:
            return ",".join(json.dumps(value).strip('"') for value in self.choices)
        return f"{self.low}..{self.high}{':log' if self.log else ''}"

    def count(self) -> float:
        """How many different values there are."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_whole else math.inf

    def guess(self, usual: Any) -> Any:
        """Where a search begins: the value that it would have unsearched, else the middle or the first choice."""
        if self.choices:
            return usual if usual in self.choices else self.choices[0]
        if usual is not None and self.low <= usual <= self.high:
            return usual
        return self._at(0.5)

    def grid(self) -> tuple[Any, ...]:
        """The choices; of a range GRID_POINTS values from end to end, evenly spaced, of `log` by the logarithm."""
        return self.choices or tuple(dict.fromkeys(self._at(i / (GRID_POINTS - 1)) for i in range(GRID_POINTS)))

    def _at(self, share: float) -> float:
        if share in (0, 1):
            return (self.low, self.high)[int(share)]
        value = self.low + share * (self.high - self.low)
        if self.log:
            value = self.low ** (1 - share) * self.high**share
        return round(value) if self.is_whole else value


def parse(words: Iterable[str], methods: Iterable[str] = METHODS) -> tuple[Searched, ...]:
    """What `--search` says: NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE, within the recipe's own bounds.

    Raises:
        InputError: a sentence with the word that is wrong, and the way out.
    """
    found: dict[str, Searched] = {}
    for word in words:
        one = _parsed(word)
        if one.name in found:
            raise InputError(f"{one.name} is searched twice; name it once.")
        if not any(is_read(one.name, method) for method in methods):
            raise InputError(f"{one.name} changes nothing for {', '.join(methods)}; leave it out, or add a method.")
        found[one.name] = one
    return tuple(found.values())


def is_read(name: str, method: str) -> bool:
    """Whether a method's results depend on this number of the recipe."""
    if name.startswith("probe"):
        return True
    if method == "frozen":
        return name in FROZEN_FIELDS
    return method == "pairtune" or name not in CONTRASTIVE


def _parsed(word: str) -> Searched:
    name, equals, values = word.partition("=")
    if not equals or not values:
        raise InputError(f"{word!r} is not NAME=VALUES, such as lr=1e-5..1e-3:log or temperature=0.05,0.1.")
    if name in INSTEAD:
        raise InputError(f"{name} is not searched this way: {INSTEAD[name]}.")
    if name not in SEARCHABLE:
        raise InputError(f"No number {name!r} can be searched; choose from {', '.join(SEARCHABLE)}.")
    return _range(name, values) if ".." in values else _choice(name, values)


def _range(name: str, values: str) -> Searched:
    ends, _, how = values.partition(":")
    low, high = (_checked(name, end) for end in ends.split("..", 1))
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        raise InputError(f"{name} is a choice and has no range; name its values, such as {name}=A,B.")
    if how not in ("", "log") or (how and low <= 0) or low >= high:
        raise InputError(
            f"{name}={values} is no range; write {name}=LOW..HIGH or {name}=LOW..HIGH:log with LOW below HIGH, "
            "and above 0 for log."
        )
    return Searched(name, low=low, high=high, log=how == "log")


def _choice(name: str, values: str) -> Searched:
    choices = tuple(_checked(name, value) for value in values.split(",") if value)
    if len(set(choices)) < max(2, len(choices)):
        raise InputError(f"{name}={values} leaves nothing to search; name two different values or more, or --set one.")
    return Searched(name, choices=choices)


def _checked(name: str, text: str) -> Any:
    """The value as the recipe holds it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    given: Mapping[str, Any] = {"dataset": "", "fingerprint": "", "backbone": "", name: value}
    try:
        return getattr(Recipe.model_validate(given), name)
    except ValidationError as error:
        raise InputError(f"{name}={text}: {error.errors()[0]['msg']}.") from None
