"""Selection: the best recipe of a cell, the best probe of a task, and why it won. Pure functions; none of them sees a
test score.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from audioconfit.recipe import Recipe
from sweeps.trial import Assignment


@dataclass(frozen=True)
class Confirmed:
    """One run of a cell's best recipe: a seed, or a fold."""

    assignment: Assignment
    metrics: dict[str, float]

    @property
    def recipe(self) -> Recipe:
        return self.assignment.recipe

    @property
    def valid(self) -> float:
        return self.metrics["valid_score"]

    @property
    def test(self) -> float:
        return self.metrics["test_score"]


@dataclass(frozen=True)
class Candidate:
    """A cell with its best recipe confirmed. `cost`: seconds of audio that stage 1 trains on."""

    cell: str
    runs: tuple[Confirmed, ...]
    cost: float

    @property
    def dataset(self) -> str:
        return self.runs[0].recipe.dataset

    @property
    def backbone(self) -> str:
        return self.runs[0].recipe.backbone

    @property
    def method(self) -> str:
        return self.runs[0].recipe.method

    @property
    def valid(self) -> float:
        """Mean validation accuracy over seeds or folds: what selection reads."""
        return statistics.fmean(run.valid for run in self.runs)

    @property
    def test(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1) of the test score over seeds or folds; of one run the deviation is 0."""
        values = [run.test for run in self.runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def best_run(self) -> Confirmed:
        """The run whose probe is handed over: best on validation, the first of equals."""
        return max(self.runs, key=lambda run: run.valid)


def by_score(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, best validation score first; of equals the cheapest, then the first asked."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.user_attrs["cost"], trial.number))


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The first of `by_score`; None if no trial completed."""
    return next(iter(by_score(trials)), None)


def champion(candidates: Sequence[Candidate]) -> Candidate:
    """The best probe of one task: highest mean validation accuracy, of equals the cheapest, then by name."""
    return min(candidates, key=lambda candidate: (-candidate.valid, candidate.cost, candidate.cell))


def explain(winner: Candidate, candidates: Sequence[Candidate]) -> str:
    """Why it won, in sentences for the registry and the report."""
    over = "folds" if len({run.recipe.fold for run in winner.runs}) > 1 else "seeds"
    mean, deviation = winner.test
    said = (
        f"{winner.backbone} ({winner.method}) has the highest mean validation score on {winner.dataset}: "
        f"{winner.valid:.4f} over {len(winner.runs)} {over}. "
        f"Test, read after this choice: {mean:.4f} ± {deviation:.4f}."
    )
    low, high = (winner.best_run.metrics.get(f"test_accuracy_{end}") for end in ("low", "high"))
    if low is not None and high is not None:
        said += f" The handed-over run alone: 95 per cent interval {low:.3f} to {high:.3f} over its test clips."
    others = [candidate for candidate in candidates if candidate.cell != winner.cell]
    if not others:
        return said + " There was no other candidate."
    runner_up = champion(others)
    margin = winner.valid - runner_up.valid
    spread = statistics.stdev(run.valid for run in winner.runs) if len(winner.runs) > 1 else 0.0
    said += f" Runner-up: {runner_up.backbone} ({runner_up.method}) with {runner_up.valid:.4f}, {margin:.4f} behind"
    if margin == 0:
        return said + "; the tie went to the cheaper recipe."
    return said + ("; less than the spread between the winner's own runs." if margin < spread else ".")
