"""Results: what a recipe reached, as a value, as flat numbers for a tracker, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from audioconfit import scores
from audioconfit.bootstrap import Interval
from audioconfit.predictions import Predictions
from audioconfit.recipe import Recipe
from audioconfit.scores import Scores


@dataclass(frozen=True)
class Result:
    """What one recipe reached. `test` is None until `evaluate` read it.

    `predictions` and `intervals`: what the linear probe predicted of each clip, and how sure each metric is, by side.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    valid: Scores
    valid_knn: float
    k: int  # neighbours that the kNN probe asks
    predictions: Mapping[str, Predictions]
    intervals: Mapping[str, Mapping[str, Interval]]
    head: Mapping[str, Scores]  # FineTune's own, by side; empty for the other methods
    test: Scores | None = None
    test_knn: float | None = None


def metrics(result: Result) -> dict[str, float]:
    """The result as flat numbers, the way a tracker wants them. `valid_score` is what selection reads: the recipe's
    metric, higher being better. A refit has trained on the validation clips and has no scores of them.
    """
    flat: dict[str, float] = {}
    if not result.recipe.refit:
        flat = _flat(result, "valid", result.valid) | {"valid_knn": result.valid_knn}
    for side, scored in result.head.items():
        flat |= {f"finetune_head_{side}_{name}": scored.under(name) for name in ("accuracy", "uar", "macro_f1")}
    if result.test is None or result.test_knn is None:
        return flat
    return flat | _flat(result, "test", result.test) | {"test_knn": result.test_knn}


def _flat(result: Result, side: str, found: Scores) -> dict[str, float]:
    numbers = {"score": found.under(result.recipe.metric)}
    numbers |= {name: value for name, value in asdict(found).items() if isinstance(value, float)}
    for name, interval in result.intervals[side].items():
        numbers |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    groups = _by_group(result, side)
    if len(groups) > 1:
        numbers["worst_group"] = min(accuracy for _, accuracy in groups.values())
    return {f"{side}_{name}": value for name, value in numbers.items()}


def _by_group(result: Result, side: str) -> dict[str, tuple[int, float]]:
    predicted = result.predictions[side]
    return scores.by_group(predicted.labels, predicted.logits, predicted.groups)


def summary(result: Result) -> dict[str, Any]:
    """The result as JSON, with its recipe, signature and confusion matrix."""
    shown, side = (result.valid, "valid") if result.test is None else (result.test, "test")
    return {
        "signature": result.recipe.signature,
        "recipe": result.recipe.model_dump(mode="json"),
        "metrics": metrics(result),
        "classes": result.classes,
        "k": result.k,
        "confusion": {"side": side, "counts": shown.confusion},
        "groups": {
            name: {"clips": clips, "accuracy": right} for name, (clips, right) in _by_group(result, side).items()
        },
    }
