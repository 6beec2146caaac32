"""Predictions at the command line: which recordings are meant, and how what is found in them is printed."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from audioconfit import files
from audioconfit.classifier import Prediction
from audioconfit.corpora.clips import audio_files
from audioconfit.errors import InputError

Format = Literal["table", "json", "csv", "rttm"]
COLUMNS = ("recording", "start", "end", "labels", "label", "probability", "error")


def recordings(words: Sequence[str]) -> list[Path]:
    """The files that are named; of a folder all recordings below it; of "-" the paths on standard input, one a line.

    A file that is not there stays on the list: it is named with the faults of the others.
    InputError: nothing is left.
    """
    found: list[Path] = []
    for word in words:
        if word == "-":
            found += [Path(line.rstrip("\n")) for line in sys.stdin if line.strip()]
        else:
            found += audio_files(Path(word)) if files.is_folder(word) else [Path(word)]
    if not found:
        raise InputError(f"There is no recording in {', '.join(words)}; name audio files, or folders that hold some.")
    return found


def write(predictions: Iterable[Prediction], form: Format, *, top_k: int) -> int:
    """Prints the predictions as they come (a table at the end); how many recordings could not be read.

    "json": a line per prediction, with the probabilities of the `top_k` best classes. "csv": a row per class of them.
    "rttm": a line per label, as tools of diarisation read them (NIST, Rich Transcription 2009).
    """
    failed = 0
    writer = WRITERS[form](top_k)
    for prediction in predictions:
        if prediction.error is not None:
            failed += 1
            Console(stderr=True).print(f"{prediction.recording}: {prediction.error}", markup=False, soft_wrap=True)
        writer.add(prediction)
    writer.close()
    return failed


def rows(prediction: Prediction, top_k: int) -> Iterator[dict[str, Any]]:
    """A row per class, the most probable first; of a recording that could not be read one with the error."""
    where = {"recording": prediction.recording, "start": prediction.start, "end": prediction.end}
    if prediction.error is not None:
        yield {"recording": prediction.recording, "error": prediction.error}
    for label, probability in prediction.top(top_k):
        yield where | {"labels": "|".join(prediction.labels), "label": label, "probability": probability}


def answer(prediction: Prediction, top_k: int) -> dict[str, Any]:
    """What is said of a recording in JSON, with the probabilities of the `top_k` best classes."""
    if prediction.error is not None:
        return {"recording": prediction.recording, "error": prediction.error}
    return {
        "recording": prediction.recording,
        "start": prediction.start,
        "end": prediction.end,
        "labels": prediction.labels,
        "probabilities": dict(prediction.top(top_k)),
    }


class _Lines:
    """JSON, an object a line."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k

    def add(self, prediction: Prediction) -> None:
        print(json.dumps(answer(prediction, self.top_k), ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class _Rows:
    """CSV, a row per class."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        self.writer.writeheader()

    def add(self, prediction: Prediction) -> None:
        self.writer.writerows(rows(prediction, self.top_k))

    def close(self) -> None:
        pass


class _Stretches:
    """RTTM, a line per label of a stretch. Its fields are parted by blanks: those in names become underscores."""

    def __init__(self, top_k: int) -> None:
        pass

    def add(self, prediction: Prediction) -> None:
        where = f"{_one_word(Path(prediction.recording).stem)} 1 {prediction.start:.3f}"
        for label in prediction.labels if prediction.error is None else ():
            lasts = f"{prediction.end - prediction.start:.3f}"
            print(f"SPEAKER {where} {lasts} <NA> <NA> {_one_word(label)} <NA> <NA>", flush=True)

    def close(self) -> None:
        pass


def _one_word(name: str) -> str:
    return "_".join(name.split())


class _Shown:
    """A table for people."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.table = Table("recording", "seconds", "label", f"probabilit{'y' if top_k == 1 else 'ies'}")

    def add(self, prediction: Prediction) -> None:
        if prediction.error is None:
            best = prediction.top(self.top_k)
            shown = ", ".join(f"{value:.3f}" if self.top_k == 1 else f"{name} {value:.3f}" for name, value in best)
            seconds = f"{prediction.start:.2f} to {prediction.end:.2f}"
            self.table.add_row(prediction.recording, seconds, ", ".join(prediction.labels) or "(none)", shown)

    def close(self) -> None:
        if self.table.row_count:
            Console().print(self.table)


WRITERS: dict[Format, Callable[[int], _Lines | _Rows | _Stretches | _Shown]] = {
    "json": _Lines,
    "csv": _Rows,
    "rttm": _Stretches,
    "table": _Shown,
}
