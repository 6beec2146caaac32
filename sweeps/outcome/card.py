"""The card of a champion, on its page in the registry: what it is, what it is worth and how sure that is, how to call
it.
"""

from audioconfit import scores
from sweeps.outcome.selection import Candidate

METRICS = ("accuracy", "uar", "macro_f1", "mean_average_precision", "log_loss")


def text(uri: str, registry: str, winner: Candidate, why: str) -> str:
    """Markdown. `uri`: the model's; `registry`: where it is, which is left out where it may hold a password."""
    recipe, best = winner.runs[0].recipe, winner.best_run.metrics
    over = f"{len(winner.runs)} runs" if len(winner.runs) > 1 else "one run"
    place = "the address of this MLflow" if "@" in registry else registry
    rows = [_row(best, name) for name in METRICS if f"test_{name}" in best]
    return "\n".join(
        [
            f"The best probe of **{winner.dataset}**: {winner.backbone}, {winner.method}, batches of "
            f"{recipe.batch_size}, chunks of {recipe.chunk_seconds:g} s, probe rate {recipe.probe_lr:.3g}.",
            "",
            why,
            "",
            f"Test {scores.title(winner.metric)} over {over}: {winner.shown}. Of the run whose probe is handed over:",
            "",
            "| on test | score | 95 per cent interval |",
            "|---|---|---|",
            *rows,
            "",
            "```python",
            "import mlflow, pandas",
            "",
            f"mlflow.set_tracking_uri({place!r})",
            f"model = mlflow.pyfunc.load_model({uri!r})",
            "model.predict(pandas.DataFrame({'audio': [open('some.wav', 'rb').read()]}))",
            "```",
            "",
            "It takes the bytes of recordings in any format and answers `label`, `probability`, `labels`, "
            f"`probabilities` and `error`. At the command line: `audioconfit predict {uri} FILES`.",
        ]
    )


def _row(metrics: dict[str, float], name: str) -> str:
    ends = [metrics.get(f"test_{name}_{end}") for end in ("low", "high")]
    interval = " to ".join(f"{end:.4f}" for end in ends if end is not None)
    return f"| {scores.title(name)} | {metrics[f'test_{name}']:.4f} | {interval} |"
