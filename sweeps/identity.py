"""Identity: what tells a sweep from others of its name. It is kept in the sweep's folder, and marks all that the sweep
keeps elsewhere: Optuna's studies, MLflow's runs and models.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audioconfit import files
from audioconfit.errors import InputError

RECORD = "identity.json"
TAG = "sweep_id"


@dataclass(frozen=True)
class Identity:
    """A sweep's name, and the id that it was given at its first start.

    `early`: it was begun by a version that marked nothing, so what bears no id may be its own.
    """

    name: str
    id: str
    early: bool = False

    def owns(self, tags: Mapping[str, Any]) -> bool:
        """Whether what bears these tags, or attributes, is the sweep's."""
        return bool(tags.get(TAG, self.id if self.early else None) == self.id)

    def study(self, cell: str) -> str:
        """What the study of a cell is called where other sweeps keep theirs, too."""
        return f"{self.name}-{self.id}/{cell}"


def draw() -> str:
    """A new id."""
    return uuid.uuid4().hex[:12]


def known(folder: Path) -> str | None:
    """The id of the sweep in this folder; None: there is none, or its record cannot be read."""
    try:
        return str(json.loads((folder / RECORD).read_text())["id"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def of(folder: Path, *, begun: bool) -> Identity:
    """The identity of the sweep in this folder, drawn at its first start; `begun`: earlier starts left something there.

    Raises:
        InputError: the record cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        files.write(path, json.dumps({"id": draw(), "early": begun}))
    try:
        known = json.loads(path.read_text())
        return Identity(folder.name, str(known["id"]), bool(known.get("early")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(
            f"{path} is damaged; it tells this sweep's studies and runs from those of others. python sweeps/check.py "
            f"{folder.parent} --repair writes it anew from the studies; where these are elsewhere, write "
            f'{{"id": "ID"}} into it, with the ID that the sweep\'s runs in MLflow have as their tag {TAG}.'
        ) from None
