"""Listening to mistakes: what a confirmed probe said of each test clip, and the worst of it as audio with a page to
play it. Part of what a confirmation leaves in its folder, from where it goes to MLflow.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import pandas as pd
import soundfile
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audioconfit import files
from audioconfit.audio import SAMPLE_RATE, Waveforms
from audioconfit.predictions import Predictions

PREDICTIONS, FOLDER, PAGE, SCORES = "predictions.parquet", "mistakes", "mistakes.html", "scores.html"
MOST_CLIPS = 20  # of the worst, and of suspected labels
HEARD_SECONDS = 15.0  # of each clip: a page of long recordings would not open
STYLE = "body{font:14px sans-serif}td,th{padding:3px 10px;text-align:left;border-bottom:1px solid #d5dbe1}"


@dataclass(frozen=True)
class Said:
    """What the probe and its neighbours said of the test clips, as sets of classes: 0 or 1 per clip and class."""

    predictions: Predictions
    classes: Sequence[str]
    probabilities: Float[Tensor, "clips classes"]
    truth: Bool[Tensor, "clips classes"]
    predicted: Bool[Tensor, "clips classes"]
    neighbours: Bool[Tensor, "clips classes"]

    @property
    def surprise(self) -> Float[Tensor, "clips"]:
        """How unlikely the label is, in nats; for label sets the mean over the classes."""
        right = torch.where(self.truth, self.probabilities, 1 - self.probabilities).clamp_min(1e-9)
        if self.predictions.labels.ndim == 2:
            return -right.log().mean(1)
        return -(self.probabilities * self.truth).sum(1).clamp_min(1e-9).log()

    @property
    def wrong(self) -> Bool[Tensor, "clips"]:
        return (self.truth != self.predicted).any(1)

    @property
    def suspected(self) -> Bool[Tensor, "clips"]:
        """Neighbours disagree with the label, and the probe agrees with them: perhaps the label is wrong."""
        return self.wrong & (self.neighbours == self.predicted).all(1)

    def labels(self, mask: Bool[Tensor, "clips classes"], clip: int) -> str:
        """The classes of one clip, for people."""
        return ", ".join(compress(self.classes, mask[clip].tolist())) or "none"


def of(
    predictions: Predictions,
    classes: Sequence[str],
    votes: Float[Tensor, "clips classes"],
    thresholds: Float[Tensor, "classes"] | None,
) -> Said:
    """`votes`: the neighbours' logits; `thresholds`: of label sets, what the predictions' logits had taken off."""
    logits, labels = predictions.logits, predictions.labels
    if labels.ndim == 2:
        plain = logits if thresholds is None else logits + thresholds
        return Said(predictions, classes, plain.sigmoid(), labels > 0, logits > 0, votes > 0)
    masks = (torch.nn.functional.one_hot(row, len(classes)) > 0 for row in (labels, logits.argmax(1), votes.argmax(1)))
    return Said(predictions, classes, logits.softmax(1), *masks)


def write(said: Said, waveforms: Waveforms, folder: Path) -> None:
    """predictions.parquet (a row per clip), mistakes/*.flac (the worst first), mistakes.html, which plays them, and
    scores.html, by class and by group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.whole(folder / PREDICTIONS) as temporary:
        table(said).to_parquet(temporary, index=False)
    chosen = worst(said)
    with files.whole(folder / FOLDER) as temporary:
        temporary.mkdir()
        heard = [_record(waveforms, said.predictions.keys[clip]) for clip in chosen]
        for place, audio in enumerate(heard, start=1):
            (temporary / f"{place:02d}.flac").write_bytes(audio)
    files.write(folder / PAGE, _page(said, chosen, heard))
    files.write(folder / SCORES, _scores(said))


def table(said: Said) -> pd.DataFrame:
    """A row per clip: key, group, truth, prediction, what the neighbours say, surprise, suspicion, probabilities."""
    clips = range(len(said.predictions.keys))
    columns = {
        "key": said.predictions.keys,
        "group": said.predictions.groups,
        "truth": [said.labels(said.truth, clip) for clip in clips],
        "prediction": [said.labels(said.predicted, clip) for clip in clips],
        "neighbours": [said.labels(said.neighbours, clip) for clip in clips],
        "surprise": said.surprise.tolist(),
        "suspected_label": said.suspected.tolist(),
    }
    shares = zip(said.classes, said.probabilities.T.tolist(), strict=True)
    return pd.DataFrame(columns | {f"probability of {name}": column for name, column in shares})


def by_class(said: Said) -> pd.DataFrame:
    """A row per class: its clips, and recall, precision and F1 on test; not a number where nothing can be said."""
    hits, clips, taken = (mask.sum(0) for mask in (said.truth & said.predicted, said.truth, said.predicted))
    columns = {"clips": clips, "recall": hits / clips, "precision": hits / taken, "F1": 2 * hits / (clips + taken)}
    return pd.DataFrame({"class": said.classes} | {name: column.tolist() for name, column in columns.items()})


def by_group(said: Said) -> pd.DataFrame:
    """A row per speaker or source recording, where known, the worst first: its clips, and the share that is right."""
    told = pd.DataFrame({"group": said.predictions.groups, "right": (~said.wrong).tolist()})
    found = told.groupby("group")["right"].agg(clips="count", right="mean").reset_index()
    return found.sort_values(["right", "group"], ignore_index=True)


def worst(said: Said) -> list[int]:
    """The rows of the wrong clips that are to be heard, the most surprising first: 20, and 20 suspected labels."""
    order = said.surprise.argsort(descending=True, stable=True).tolist()
    wrong = [clip for clip in order if said.wrong[clip]]
    suspects = [clip for clip in wrong if said.suspected[clip]]
    chosen = {*wrong[:MOST_CLIPS], *suspects[:MOST_CLIPS]}
    return [clip for clip in wrong if clip in chosen]


def _record(waveforms: Waveforms, key: str) -> bytes:
    """The clip's first seconds as FLAC."""
    content = io.BytesIO()
    soundfile.write(content, waveforms[key][: round(HEARD_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, format="FLAC")
    return content.getvalue()


def _scores(said: Said) -> str:
    """Words of users are escaped by pandas."""
    tables = {"By class": by_class(said), "By group (speaker or source recording)": by_group(said)}
    parts = [
        f"<h2>{title}, on test</h2>{one.to_html(index=False, border=0, float_format='{:.3f}'.format, na_rep='')}"
        for title, one in tables.items()
        if len(one)
    ]
    return f'<!doctype html><meta charset="utf-8"><title>Scores</title><style>{STYLE}</style>{"".join(parts)}'


def _page(said: Said, chosen: Sequence[int], heard: Sequence[bytes]) -> str:
    """One page that needs nothing beside it: MLflow shows pages in a frame that loads nothing."""
    heads = ("", "listen", "label", "prediction", "neighbours", "", "probability of the label", "group", "clip")
    rows = []
    for place, (clip, audio) in enumerate(zip(chosen, heard, strict=True), start=1):
        sound = f"data:audio/flac;base64,{base64.b64encode(audio).decode()}"
        words = [
            said.labels(said.truth, clip),
            said.labels(said.predicted, clip),
            said.labels(said.neighbours, clip),
            "suspected wrong label" if said.suspected[clip] else "",
            f"{(-said.surprise[clip]).exp():.1%}",
            said.predictions.groups[clip] or "",
            said.predictions.keys[clip],
        ]
        cells = [str(place), f'<audio controls preload="metadata" src="{sound}"></audio>', *map(html.escape, words)]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    count, wrong, suspected = len(said.predictions.keys), int(said.wrong.sum()), int(said.suspected.sum())
    return (
        f'<!doctype html><meta charset="utf-8"><title>Mistakes</title><style>{STYLE}</style>'
        f"<h2>{wrong} of {count} test clips are wrong; {len(chosen)} to listen to, the most surprising first</h2>"
        f"<p>Suspected wrong labels ({suspected}): the nearest training clips disagree with the label, and the probe "
        f"agrees with them. At most {HEARD_SECONDS:.0f} s of each clip; all clips are in {PREDICTIONS}.</p>"
        f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
        f"{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    )
