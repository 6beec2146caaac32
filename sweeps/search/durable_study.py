"""A durable study: one cell's Optuna study in memory, where it is asked and read, and in the storage, where it lasts.

Optuna on SQLite writes and reads a trial in a dozen transactions, 65 ms of CPU; here it takes one to ask, one per
report and one to tell. What is not in the storage has not happened: a driver killed inside ask() or tell() finds the
trial never asked, or not told yet, but never half a trial. Only one process may have the study open.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.ERROR)


class DurableStudy:
    """The study of that name, found or created in the storage; scores are maximised."""

    def __init__(self, name: str, storage: BaseStorage, *, pruner: BasePruner) -> None:
        optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        self.storage, self.id = storage, storage.get_study_id_from_name(name)
        stored = storage.get_all_trials(self.id, deepcopy=False)
        self.stored = len(stored)
        self.ids: dict[int, int] = {}  # the storage's ids of those that it was asked for, by trial number
        self.memory = InMemoryStorage()
        self.study = optuna.create_study(storage=self.memory, direction="maximize", pruner=pruner)
        self.study.add_trials(stored)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in order; read only."""
        return self.study.get_trials(deepcopy=False)[: self.stored]

    @property
    def next_number(self) -> int:
        """Of the trial that is asked next: the first of an earlier start that waits, or a new one."""
        return next((trial.number for trial in self.trials if trial.state == TrialState.WAITING), self.stored)

    def running(self) -> list[Trial]:
        """The trials that were asked and not told yet."""
        study, number_to_id = self.study, self.memory.get_trial_id_from_study_id_trial_number
        here = self.memory.get_study_id_from_name(study.study_name)
        running = [trial.number for trial in self.trials if trial.state == TrialState.RUNNING]
        return [Trial(study, number_to_id(here, number)) for number in running]

    def suggest_first(self, params: Mapping[str, float]) -> None:
        """The first point, if no trial was asked yet."""
        if not self.stored:
            self.study.enqueue_trial(dict(params))

    def ask(
        self,
        distributions: dict[str, BaseDistribution],
        sampler: BaseSampler,
        *,
        waits: Callable[[dict[str, Any]], bool] = lambda point: False,
    ) -> Trial:
        """The next trial, stored whole; one of an earlier start that waits comes before any new one.

        Where its point `waits`, so does the trial: a start that finds it waiting asks for it again, at its point and
        under its number. In memory it runs, for its point is taken.
        """
        self.study.sampler = sampler
        trial = self.study.ask(distributions)
        whole = copy(self.study.get_trials(deepcopy=False)[trial.number])
        if waits(whole.params):
            whole.state = TrialState.WAITING
        if trial.number >= self.stored:
            self._store(whole)
            return trial
        self._store_params(whole)
        if whole.state == TrialState.RUNNING:
            self.begin(trial)
        return trial

    def begin(self, trial: Trial) -> None:
        """A trial that waited waits no longer."""
        self.storage.set_trial_state_values(self._id(trial.number), TrialState.RUNNING)

    def repeat(self, trial: FrozenTrial, **attributes: Any) -> None:
        """Asks for an ended trial's point once more."""
        again = create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
        )
        self.study.add_trial(again)
        self._store(again)

    def report(self, trial: Trial, value: float, step: int) -> None:
        """Stores an early score, once per step."""
        if step not in self.trials[trial.number].intermediate_values:
            self.storage.set_trial_intermediate_value(self._id(trial.number), step, value)
            trial.report(value, step)

    def tell(self, trial: Trial, state: TrialState, value: float | None = None, **attributes: Any) -> None:
        """Stores how the trial ended. A pruned trial's value is its last early score."""
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
            self.storage.set_trial_user_attr(self._id(trial.number), name, attribute)
        told = self.study.tell(trial, value, state)
        self.storage.set_trial_state_values(self._id(trial.number), told.state, told.values)

    def _store_params(self, whole: FrozenTrial) -> None:
        """The point of one whose number alone was known (rebuilding.py)."""
        here = self._id(whole.number)
        for name in whole.params.keys() - self.storage.get_trial(here).params.keys():
            distribution = whole.distributions[name]
            value = distribution.to_internal_repr(whole.params[name])
            self.storage.set_trial_param(here, name, value, distribution)

    def _store(self, whole: FrozenTrial) -> None:
        self.ids[self.stored] = self.storage.create_new_trial(self.id, whole)
        self.stored += 1

    def _id(self, number: int) -> int:
        """The storage's id of a trial; of earlier starts' it is asked when it is needed, which few are."""
        if number not in self.ids:
            self.ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        return self.ids[number]
