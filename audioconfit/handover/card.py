"""The model card: a README.md with the hub's metadata, from what a classifier knows of itself."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from audioconfit.backbones import BACKBONES
from audioconfit.corpora import CORPORA

SCORES = {
    "accuracy": "Accuracy",
    "uar": "Unweighted average recall",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "mean_average_precision": "Mean average precision",
}
LARGEST_CONFUSION = 20  # classes; a larger table is not read


def written(description: dict[str, Any], *, name: str, use: Iterable[str] | None = None, library: str = "onnx") -> str:
    """The card of the model `name`; `description` is the content of its classifier.json. `use`: how to run it, in
    paragraphs, where that is not with transformers but with `library`.
    """
    usage = _use(description, name) if use is None else use
    front = _front(description, name, library="transformers" if use is None else library)
    parts = [front, f"# {name}", *_purpose(description), "## Use", *usage, *_thresholds(description)]
    parts += [*_scores(description["about"]), *_recipe(description["about"]), *_limits(description)]
    return "\n\n".join(parts) + "\n"


def shown(description: dict[str, Any]) -> str:
    """What the model is, and its scores."""
    return "\n\n".join([*_purpose(description), *_scores(description["about"])])


def _front(description: dict[str, Any], name: str, *, library: str) -> str:
    """The metadata that the hub reads: between lines of three dashes, in YAML."""
    about = description["about"]
    front: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "audio-classification",
        "tags": ["audio-classification", "audioconfit", description["architecture"]],
    }
    known = BACKBONES.get(description["backbone"])
    source = known.source if known else description["backbone"]
    if _is_of_the_hub(source):
        front["base_model"] = source
    if numbers := _numbers(about.get("metrics", {}), "test"):
        dataset = about["recipe"]["dataset"]
        results = {
            "task": {"type": "audio-classification"},
            "dataset": {"name": dataset, "type": dataset, "split": "test"},
            "metrics": [{"type": key, "name": SCORES[key], "value": value} for key, value in numbers.items()],
        }
        front["model-index"] = [{"name": name, "results": [results]}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _is_of_the_hub(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith(("/", ".", "~"))


def _backbone(description: dict[str, Any]) -> str:
    """Its name; of a folder the last one, for a card may go public."""
    name: str = description["backbone"]
    return name if _is_of_the_hub(name) else PurePath(name).name


def _purpose(description: dict[str, Any]) -> Iterator[str]:
    recipe, classes = description["about"].get("recipe", {}), description["classes"]
    corpus = CORPORA.get(recipe.get("dataset", ""))
    task = f"Names the {corpus.task} in a recording" if corpus else "Classifies recordings"
    how = {
        "pairtune": "fine-tuned contrastively (PairTune), a linear probe on its frozen features",
        "finetune": "fine-tuned with cross-entropy, a linear probe on its frozen features",
        "frozen": "as it was, a linear probe on its features",
    }.get(recipe.get("method", ""), "with a linear probe")
    several = "any number of" if description["thresholds"] else "one of"
    yield f"{task}: {several} {len(classes)} classes. Backbone: {_backbone(description)}, {how}. Made by AudioConFit."
    shown = ", ".join(f"`{label}`" for label in classes[:50]) + (", ..." if len(classes) > 50 else "")
    yield f"Classes: {shown}."
    for name, count in description["about"].get("enrolled", {}).items():
        clips = "recording" if count == 1 else "recordings"
        yield f"It was not trained on `{name}`: that class was added from {count} {clips} (`audioconfit enrol`)."
    if recipe:
        said = description["about"].get("protocol") or recipe.get("protocol") or "the corpus' own"
        licence = f" Licence of the recordings: {corpus.licence} ({corpus.homepage})." if corpus else ""
        yield f"Data: {recipe['dataset']} (fold {recipe['fold']}). Who is held out: {said}.{licence}"


def _use(description: dict[str, Any], name: str) -> Iterator[str]:
    yield (
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("audio-classification", model="{name}")\n'
        f'classify({{"raw": samples, "sampling_rate": {description["sample_rate"]}}})  # one channel, float32\n```'
    )
    chunk = description["chunk_seconds"]
    yield (
        f"Expects {description['sample_rate']} Hz mono. Up to {chunk:g} s, the probabilities are those of AudioConFit. "
        f"A longer recording goes through AudioConFit in consecutive pieces of {chunk:g} s, whose frames are averaged, "
        "and through the pipeline whole: attention then spans all of it, and probabilities differ. Cut it into pieces "
        "for the same ones, or use `audioconfit predict`. Give the pipeline one recording at a time: the padding of a "
        "batch moves the embeddings of models with group norm."
    )


def _thresholds(description: dict[str, Any]) -> Iterator[str]:
    if description["thresholds"]:
        limits = ", ".join(
            f"`{label}` {limit:.3f}"
            for label, limit in zip(description["classes"], description["thresholds"], strict=True)
        )
        yield f"A class is predicted where its logit is above its threshold (chosen by F1 on validation): {limits}."


def _scores(about: dict[str, Any]) -> Iterator[str]:
    metrics = about.get("metrics", {})
    if not metrics:
        return
    yield "## Scores"
    sides = [side for side in ("test", "valid") if _numbers(metrics, side)]
    lines = ["| score | " + " | ".join(sides) + " |", "|---" * (len(sides) + 1) + "|"]
    for key, title in SCORES.items():
        cells = [_cell(metrics, side, key) for side in sides]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    yield "\n".join(lines)
    yield (
        "Intervals: 95 per cent, by resampling whole speakers or sources where they are known, else clips. The recipe "
        "was chosen on train and valid; test had no part in the choice, unless the corpus has several test folds."
    )
    confusion = about.get("confusion", {})
    if (counts := confusion.get("counts")) and len(counts) <= LARGEST_CONFUSION:
        yield f"Clips of {confusion['side']} by true class (rows) and predicted class (columns):"
        yield _table(about["classes"], counts)


def _table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    names = [label.replace("|", "\\|") for label in classes]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(map(str, row)) + " |" for label, row in zip(names, counts, strict=True)]
    return "\n".join(lines)


def _recipe(about: dict[str, Any]) -> Iterator[str]:
    if recipe := about.get("recipe"):
        yield "## Recipe"
        fields = recipe | {"backbone": _backbone(recipe)}
        shown = "\n".join(f"{name}: {value}" for name, value in fields.items() if value not in (None, "", []))
        yield f"Signature {about['signature']}.\n\n```text\n{shown}\n```"


def _limits(description: dict[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield (
        "- It knows its classes alone and names one of them whatever it hears.\n"
        if not description["thresholds"]
        else "- It knows its classes alone.\n"
    ) + (
        "- The scores hold for recordings like those that it was tested on: other microphones, rooms, languages and "
        "speakers were not tried unless the corpus has them.\n"
        f"- The licence of the weights follows from those of the backbone ({_backbone(description)}) and of the "
        "recordings; check both before you pass it on."
    )


def _cell(metrics: dict[str, float], side: str, key: str) -> str:
    value = metrics.get(f"{side}_{key}")
    if value is None:
        return ""
    low, high = metrics.get(f"{side}_{key}_low"), metrics.get(f"{side}_{key}_high")
    return f"{value:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else "")


def _numbers(metrics: dict[str, float], side: str) -> dict[str, float]:
    return {key: metrics[f"{side}_{key}"] for key in SCORES if f"{side}_{key}" in metrics}
