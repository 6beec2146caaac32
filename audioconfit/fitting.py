"""Fitting: from a corpus to a classifier in one call, for a notebook or a script. A search over recipes is a sweep."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audioconfit import audio, backbones, choices, corpora, encoders, method, results, splits
from audioconfit.audio import Waveforms
from audioconfit.classifier import Classifier
from audioconfit.corpora import Columns, Corpus
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe


def load_corpus(
    name_or_path: str | Path,
    data: Path | str = "data",
    *,
    allow_incomplete: bool = False,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
) -> Corpus:
    """Your own folder or manifest by its path, one of the six corpora by its name, found below `data`, or a data set of
    the Hugging Face hub by its id ("org/name", "org/name@revision"), fetched into `data` unless a folder is called so.

    Args:
        label_column, group_column, split_column: of your own table, where the names that are known do not fit.

    Raises:
        InputError: it is not there, or not all of it, or has no such column.
    """
    named = Columns(label_column, group_column, split_column)
    return corpora.load(str(name_or_path), Path(data), allow_incomplete=allow_incomplete, named=named)


def fit(
    corpus: Corpus | str | Path,
    *,
    backbone: str = "wav2vec2",
    epochs: int = 40,
    seed: int = 0,
    prepared: Path | str | None = None,
    device: str | None = None,
    progress: bool = True,
    report: Callable[[int, dict[str, float]], object] | None = None,
    **recipe: Any,
) -> Classifier:
    """A classifier of the corpus' classes, its scores on validation and test in `scores`.

    Args:
        prepared: folder that keeps the decoded recordings for the next call; None: they are decoded for this one.
        device: "cpu", "cuda"; None: a GPU where there is one.
        report: called with (epoch, metrics) after each epoch; what it raises ends the training.
        recipe: other fields of the recipe: lr, batch_size, chunk_seconds, method, protocol, ... Left out, the learning
            rate is the backbone's, batch and chunk the largest that a sweep would try on this corpus.

    Raises:
        InputError: with what cannot work, its value and the way out.
    """
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus)
    encoders.check(backbone)
    with tempfile.TemporaryDirectory() as temporary, _Shown(progress) as shown:
        waveforms = audio.prepare(corpus, Path(prepared or temporary), progress=shown.decoded)
        written = _recipe(waveforms, {"backbone": backbone, "epochs": epochs, "seed": seed, **recipe})

        def told(epoch: int, metrics: dict[str, float]) -> bool:
            if metrics:
                shown.trained(epoch, written.epochs)
                if report is not None:
                    report(epoch, metrics)
            return True

        return _fit(written, waveforms, device or ("cuda" if torch.cuda.is_available() else "cpu"), told)


def _fit(recipe: Recipe, waveforms: Waveforms, device: str, report: method.Report) -> Classifier:
    stage = method.tune(recipe, waveforms, device=device, report=report)
    assert stage is not None  # the report never stops it
    split = method.split_of(recipe, waveforms)
    probes, result = method.fit_probe(recipe, stage.train, stage.valid, split, head=stage.head, device=device)
    test = method.features_of_test(recipe, stage.encoder, waveforms, device=device)
    result = method.evaluate(result, probes, test, split, device=device)
    about = results.summary(result) | {"protocol": split.protocol}
    return Classifier(stage.encoder.cpu().eval(), probes.linear, recipe.chunk_seconds, split.classes, about)


def _recipe(waveforms: Waveforms, numbers: dict[str, Any]) -> Recipe:
    """The recipe that these numbers and the corpus make."""
    backbone = numbers["backbone"]
    kept = method.embeddable(backbone, waveforms)
    split = splits.split(kept.corpus, protocol=numbers.get("protocol"), fold=numbers.get("fold", 0))
    given = {
        "dataset": waveforms.corpus.name,
        "fingerprint": waveforms.fingerprint,
        "weights": encoders.fingerprint(backbone),
        "lr": backbones.find(backbone).lr,
        "batch_size": max(choices.batch_sizes(split)),
        "chunk_seconds": max(choices.chunk_seconds(kept, split)),
    }
    try:
        return Recipe.model_validate(given | numbers)
    except ValidationError as error:
        wrong = error.errors()[0]
        known = f" Known fields: {', '.join(Recipe.model_fields)}." if wrong["type"] == "extra_forbidden" else ""
        raise InputError(f"{wrong['loc'][0]}={wrong['input']!r}: {wrong['msg']}.{known}") from None


class _Shown:
    """A progress bar on standard error, or nothing."""

    def __init__(self, progress: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        seen = progress and (console.is_terminal or console.is_jupyter)
        self.bar = Progress(*columns, console=console, transient=True, disable=not seen)
        self.decoding = self.bar.add_task("recordings", total=None)
        self.training = self.bar.add_task("epochs", total=None)

    def __enter__(self) -> "_Shown":
        self.bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.stop()

    def decoded(self, done: int, total: int) -> None:
        self.bar.update(self.decoding, completed=done, total=total)

    def trained(self, epoch: int, epochs: int) -> None:
        self.bar.update(self.training, completed=epoch, total=epochs)
