"""Selection: the best probe of a task, and why it won. No choice reads a test score."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from audioconfit import bootstrap, predictions, scores
from audioconfit.bootstrap import Difference
from audioconfit.recipe import Recipe
from sweeps.outcome import race as races
from sweeps.outcome.race import Race
from sweeps.trial.assignment import Assignment


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
    def label(self) -> str:
        """What stands for the backbone in the cell's name, and tells it from all others of the sweep."""
        return self.cell.removesuffix(f".{self.method}").removesuffix(f".{self.dataset}")

    @property
    def method(self) -> str:
        return self.runs[0].recipe.method

    @property
    def metric(self) -> str:
        """What its scores are: micro F1 and the like are in the runs' metrics."""
        several = "test_mean_average_precision" in self.runs[0].metrics
        return scores.fitting(self.runs[0].recipe.metric, multi_label=several)

    @property
    def valid(self) -> float:
        """Mean validation score over seeds or folds: what selection reads where there was no race."""
        return statistics.fmean(run.valid for run in self.runs)

    @property
    def test(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1) of the test score over seeds or folds; of one run the deviation is 0."""
        values = [run.test for run in self.runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def shown(self) -> str:
        """Its test score for a table, in per cent, or nats of the log loss: with the standard deviation over its runs,
        of a single run with the interval, if that is known.
        """
        mean, deviation = self.test
        nats = self.metric == "log_loss"
        score = f"{-mean:.3f}" if nats else f"{100 * mean:.2f}"
        if len(self.runs) > 1:
            return f"{score} ± {deviation:.3f}" if nats else f"{score} ± {100 * deviation:.2f}"
        if self.interval is None:
            return score
        low, high = self.interval
        return f"{score} ({low:.2f}–{high:.2f})" if nats else f"{score} ({100 * low:.0f}–{100 * high:.0f})"

    @property
    def over(self) -> str:
        """What its runs differ in: "3 seeds", "5 folds"."""
        return f"{len(self.runs)} {'folds' if len({run.recipe.fold for run in self.runs}) > 1 else 'seeds'}"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 per cent interval of the metric on the test clips of the run that is handed over; None in runs that
        were confirmed before there were intervals.
        """
        metrics, name = self.best_run.metrics, f"test_{scores.field(self.metric)}"
        if f"{name}_low" not in metrics:
            return None
        return metrics[f"{name}_low"], metrics[f"{name}_high"]

    @property
    def by_layer(self) -> dict[int | str, float]:
        """Mean validation score over its runs by the layer that the probe reads, higher being better; empty where the
        last one alone was stored.
        """
        found = [each for run in self.runs if (each := run.assignment.read_layers())]
        return {layer: statistics.fmean(one[layer] for one in found) for layer in found[0]} if found else {}

    @property
    def best_run(self) -> Confirmed:
        """The run whose probe is handed over: best on validation, the first of equals."""
        return max(self.runs, key=lambda run: run.valid)


def champion(candidates: Sequence[Candidate], race: Race | None = None) -> Candidate:
    """The best probe of one task: the first in the race's standing; without a race the highest mean validation score,
    of equals the cheapest, then by name.
    """
    by_score = sorted(candidates, key=lambda candidate: (-candidate.valid, candidate.cost, candidate.cell))
    places = [one.cell.name for one in race.standing()] if race else []
    return min(by_score, key=lambda one: places.index(one.cell) if one.cell in places else len(places))


def difference(ours: Candidate, theirs: Candidate) -> Difference | None:
    """How much better our probes are on test than theirs, on the same clips of the same seeds or folds; None where they
    have none in common, or were confirmed before predictions were kept.
    """
    rivals = {(run.recipe.seed, run.recipe.fold): run.assignment for run in theirs.runs}
    pairs = []
    for run in ours.runs:
        rival = rivals.get((run.recipe.seed, run.recipe.fold))
        if rival is not None and run.assignment.has_predictions("test") and rival.has_predictions("test"):
            pairs.append(predictions.common(run.assignment.predictions("test"), rival.predictions("test")))
    if not pairs:
        return None
    one, other = (predictions.join(side) for side in zip(*pairs, strict=True))
    return bootstrap.difference(ours.metric, one, other)


def explain(winner: Candidate, candidates: Sequence[Candidate], race: Race | None = None) -> str:
    """Why it won, in sentences for the registry and the report."""
    mean, deviation = winner.test
    spread = f" ± {deviation:.4f}" if len(winner.runs) > 1 else ""
    raced = race.best_of(winner.cell) if race else None
    said = races.explain(race, raced) if race and raced else _by_validation(winner, candidates)
    said += f" Test, read after this choice: {scores.title(winner.metric)} {abs(mean):.4f}{spread}."
    if winner.interval is not None:
        low, high = winner.interval
        said += f" The run that is handed over alone: {low:.3f} to {high:.3f} (95 per cent interval)."
    others = [candidate for candidate in candidates if candidate.cell != winner.cell]
    if others:
        second = champion(others, race)
        lead = difference(winner, second)
        if lead is not None:
            said += (
                f" On the same test clips it is {lead.gain:+.4f} ({lead.low:+.4f} to {lead.high:+.4f}) against "
                f"{second.backbone} ({second.method})."
            )
    return said


def _by_validation(winner: Candidate, candidates: Sequence[Candidate]) -> str:
    said = (
        f"{winner.backbone} ({winner.method}) has the highest mean validation score on {winner.dataset}: "
        f"{winner.valid:.4f} over {winner.over}."
    )
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
