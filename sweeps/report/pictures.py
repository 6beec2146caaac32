"""The paper's figures from a sweep, convergence (Figure 2) and maps of confused classes (Figure 3); score by layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audioconfit import figures, representation
from audioconfit.features import Features
from audioconfit.figures import Map
from sweeps.outcome.selection import Candidate
from sweeps.report.record import Record
from sweeps.report.tables import result_of, test_features
from sweeps.report.values import TITLES
from sweeps.trial.stages import StageStore

LEAST_CLIPS = 4  # of a map
FORMATS = (".png", ".pdf")


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn as `path`, a PNG, with a PDF of the same name beside it."""

    path: Path
    title: str
    said: str


def draw(record: Record, out: Path, *, prefix: str = "", most_clips: int | None = None) -> Iterator[Picture]:
    """A pair of figures per dataset and backbone, and one per cell whose probe could read every layer.

    `most_clips`: maps of more test clips are left out (t-SNE takes the square of them in time). `prefix` begins the
    names of the files.
    """
    for dataset, backbone in dict.fromkeys((one.dataset, one.backbone) for one in record.candidates):
        rivals = [one for one in record.candidates if (one.dataset, one.backbone) == (dataset, backbone)]
        name = f"{prefix}{dataset}-{rivals[0].label}".replace("/", "_")
        place = out / f"figure2-{name}.png"
        if _convergence(rivals, record.store, place):
            yield Picture(place, "Figure 2", f"Validation accuracy by epoch, {backbone} on {dataset}.")
        place = out / f"figure3-{name}.png"
        if _separability(rivals, record.store, place, most_clips):
            first = TITLES[rivals[0].method]
            yield Picture(place, "Figure 3", f"The classes of {dataset} that {first} confuses most, {backbone}.")
        for one in rivals:
            if by_layer := one.by_layer:
                place, chosen = out / f"layers-{prefix}{one.cell}.png", one.best_run.recipe.probe_layer
                for suffix in FORMATS:
                    figures.layers(by_layer, place.with_suffix(suffix), chosen=chosen, score="validation score")
                said = f"By the layer that the probe reads, {backbone} on {dataset}, {TITLES[one.method]}."
                yield Picture(place, "Validation score by layer", said)


def _convergence(rivals: Sequence[Candidate], store: StageStore, path: Path) -> bool:
    curves = {
        TITLES[one.method]: [_validation(store.curve(run.recipe.stage_key)) for run in one.runs] for one in rivals
    }
    curves = {method: runs for method, runs in curves.items() if any(runs)}  # frozen features have none
    for suffix in FORMATS if curves else ():
        figures.convergence(curves, path.with_suffix(suffix), score="validation accuracy (nearest neighbours)")
    return bool(curves)


def _validation(curve: Sequence[dict[str, float]]) -> list[tuple[float, float]]:
    """(epoch, score) of the epochs that were validated."""
    return [(point["epoch"], point["valid_knn"]) for point in curve if "valid_knn" in point]


def _separability(rivals: Sequence[Candidate], store: StageStore, path: Path, most_clips: int | None) -> bool:
    """Of the first method's mistakes on test; the same classes for each method."""
    result = result_of(rivals[0])
    classes, counts = result["classes"], result["confusion"]["counts"]
    clips = [sum(row) for row in counts or []]
    groups = [
        group
        for group in (representation.most_confused(counts) if counts else [])
        if LEAST_CLIPS <= sum(clips[label] for label in group) <= (most_clips or sum(clips))
    ]
    if not groups:
        return False
    maps = {
        TITLES[one.method]: [
            _map(test_features(one.best_run.recipe.stage_key, store), group, classes) for group in groups
        ]
        for one in rivals
    }
    for suffix in FORMATS:
        figures.separability(maps, path.with_suffix(suffix))
    return True


def _map(features: Features, group: Sequence[int], classes: Sequence[str]) -> Map:
    rows = torch.isin(features.labels, torch.tensor(group))
    embeddings, labels = features.embeddings[rows], features.labels[rows]
    score = representation.silhouette(embeddings, labels)
    names = [classes[int(label)] for label in labels]
    return Map(representation.project(embeddings), names, caption=f"separability {score:.2f}")
