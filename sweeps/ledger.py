"""The ledger of one cell: its Optuna study in memory, where it is asked and read, and in the storage, where it lasts.

Optuna on SQLite writes and reads a trial in a dozen transactions, 65 ms of CPU; here it is one when the trial is asked,
one per report, one when it is told. What is not in the storage has not happened: a driver killed inside ask() or tell()
finds the trial never asked, or still to be told, and never half a trial. One process has the study at a time.
"""

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Ledger:
    """A study by name, found in the storage or opened there; maximises."""

    def __init__(self, name: str, storage: BaseStorage, *, pruner: BasePruner) -> None:
        optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        self.storage, self.id = storage, storage.get_study_id_from_name(name)
        stored = storage.get_all_trials(self.id, deepcopy=False)
        self.ids = [trial._trial_id for trial in stored]  # in the storage, by the trial's number
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self.study.add_trials(stored)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All that were asked, in order: to be read, not written."""
        return self.study.get_trials(deepcopy=False)[: len(self.ids)]

    def running(self) -> list[Trial]:
        """The trials that were asked and not told, to be told or to be asked again."""
        return [Trial(self.study, trial._trial_id) for trial in self.trials if trial.state == TrialState.RUNNING]

    def suggest_first(self, params: Mapping[str, float]) -> None:
        """What to ask if nothing was asked yet."""
        if not self.ids:
            self.study.enqueue_trial(dict(params))

    def ask(self, distributions: dict[str, BaseDistribution], sampler: BaseSampler) -> Trial:
        """The next trial, whole in the storage."""
        self.study.sampler = sampler
        trial = self.study.ask(distributions)
        whole = self.study.get_trials(deepcopy=False)[trial.number]
        self.ids.append(self.storage.create_new_trial(self.id, whole))
        return trial

    def report(self, trial: Trial, value: float, step: int) -> None:
        """An early score, once per step."""
        if step not in self.trials[trial.number].intermediate_values:
            self.storage.set_trial_intermediate_value(self.ids[trial.number], step, value)
            trial.report(value, step)

    def tell(self, trial: Trial, state: TrialState, value: float | None = None, **attributes: float) -> None:
        """How the trial ended. A pruned trial's value is its last early score."""
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
            self.storage.set_trial_user_attr(self.ids[trial.number], name, attribute)
        told = self.study.tell(trial, value, state)
        self.storage.set_trial_state_values(self.ids[trial.number], told.state, told.values)
