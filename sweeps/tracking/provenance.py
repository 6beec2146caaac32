"""Provenance: where a run comes from, as MLflow shows it on its page: the command, the commit, the user, the data."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag

LONGEST_DIGEST = 36  # characters in MLflow


@dataclass(frozen=True)
class Data:
    """A task's recordings: their fingerprint, and how many clips each side has (of the first fold)."""

    name: str
    fingerprint: str
    sides: Mapping[str, int]

    def as_input(self) -> DatasetInput:
        """What MLflow lists among a run's datasets; the clips of each side stand beside the name."""
        said = ", ".join(f"{side} {count}" for side, count in self.sides.items())
        told = {"num_rows": sum(self.sides.values()), **self.sides}
        dataset = Dataset(
            name=self.name,
            digest=self.fingerprint[:LONGEST_DIGEST],
            source_type="local",
            source=json.dumps({"uri": self.name}),
            profile=json.dumps(told),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", said)])


def tags(origin: Mapping[str, str]) -> dict[str, str]:
    """`origin`: command, version and, where known, commit; who runs it is asked here."""
    command = origin.get("command", "")
    found = {
        # MLflow shows what follows the last slash: of a whole command perhaps the end of a folder's name.
        "mlflow.source.name": next((word for word in command.split() if word.endswith(".py")), command),
        "command": command,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": origin.get("commit", ""),
        "version": origin.get("version", ""),
        "mlflow.user": _user(),
    }
    return {name: value for name, value in found.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user that has no name
        return ""
