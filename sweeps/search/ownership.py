"""Ownership: which study of a storage is a cell's. Several sweeps may share a storage; a study says whose it is.

Two of its attributes do: the id of its sweep, and the settings that all its trials have in common. In the sweep's own
database a study is called like its cell; elsewhere its name carries the sweep's, too. Earlier versions called studies
like cells everywhere and said nothing in them.
"""

import glob
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from audioconfit.errors import InputError
from sweeps.identity import TAG, Identity
from sweeps.request import resuming
from sweeps.request.cells import Cell
from sweeps.trial.assignment import RESULT

SETTINGS = "settings"
WAY_OUT = "Choose another --name, or another --optuna-storage."


def claim(cell: Cell, sweep: Identity, storage: BaseStorage, *, folder: Path, shared: bool) -> str:
    """The name of the cell's study, which is created where there is none. `folder`: of the sweep; `shared`: the storage
    is not the sweep's own.

    Raises:
        InputError: the study is another sweep's, or was made for other settings.
    """
    name = _name(cell, sweep, storage, shared=shared)
    known = _attributes(storage, name)
    if known is None:
        _check_folder(cell, folder)
        optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    elif TAG not in known and shared:
        _check_trials(cell, name, storage, folder)
    if changes := resuming.changes((known or {}).get(SETTINGS, cell.settings), cell.settings):
        raise InputError("\n".join(f"The study {name}: {change}" for change in [*changes, WAY_OUT]))
    if known is None or not known.keys() >= {TAG, SETTINGS}:
        number = storage.get_study_id_from_name(name)
        storage.set_study_user_attr(number, SETTINGS, cell.settings)
        storage.set_study_user_attr(number, TAG, sweep.id)
    return name


def _name(cell: Cell, sweep: Identity, storage: BaseStorage, *, shared: bool) -> str:
    marked = sweep.study(cell.name)
    if _attributes(storage, marked) is not None:
        return marked
    plain = _attributes(storage, cell.name)
    if plain is None:
        return marked if shared else cell.name
    if sweep.owns(plain) or (TAG not in plain and not shared):
        return cell.name
    if shared and not sweep.early:
        return marked
    raise InputError(
        f"The study {cell.name} in Optuna's storage is of another sweep than {sweep.name!r} (its {TAG} is "
        f"{plain[TAG]}, this sweep's {sweep.id}). {WAY_OUT}"
    )


def _attributes(storage: BaseStorage, name: str) -> dict[str, Any] | None:
    """What a study says of itself. None: there is no such study."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return None


def _check_folder(cell: Cell, folder: Path) -> None:
    """InputError where the sweep has trials of the cell, whose study must then be in another storage."""
    if any(folder.glob(f"trials/{glob.escape(cell.name)}-[0-9][0-9][0-9][0-9]/{RESULT}")):
        raise InputError(
            f"{folder} has trials of {cell.name}, but Optuna's storage has no study of them. Name the --optuna-storage "
            "that the sweep began with (none: optuna.db in its folder). Where that is lost, python sweeps/check.py "
            f"{folder.parent} --repair writes it anew from the journal."
        )


def _check_trials(cell: Cell, name: str, storage: BaseStorage, folder: Path) -> None:
    """InputError where the trials of a study that says nothing are not this sweep's: each of its own left a result."""
    for trial in storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False):
        left = folder / "trials" / cell.key(trial.number)
        if trial.state == TrialState.COMPLETE and not (left / RESULT).exists():
            raise InputError(
                f"The study {name} in Optuna's storage holds trials of another sweep: trial {trial.number} has left "
                f"nothing in {left}. {WAY_OUT}"
            )
