"""The paper's tables and figures, from a sweep's results: `python sweeps/paper.py --name sweep`, seconds on one core.

Writes paper.md (Tables 1 to 3) with its pictures (Figures 2 and 3) into the sweep's folder, or where --out says. Reads
what the confirmation left and trains nothing; a sweep with `--methods pairtune,finetune` has both sides of each
comparison.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from audioconfit import audio, errors, figures, method, representation
from audioconfit.features import Features
from audioconfit.figures import Map
from sweeps.outcome import confirmation, references, selection
from sweeps.outcome.selection import Candidate
from sweeps.request import flags
from sweeps.trial.assignment import RESULT
from sweeps.trial.stages import StageStore

PAGE = "paper.md"
LEAST_CLIPS = 4  # of a map
TITLES = {"finetune": "FineTune", "pairtune": "PairTune", "frozen": "frozen"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 where there is no finished sweep."""
    parser = argparse.ArgumentParser(prog="python sweeps/paper.py", description=__doc__)
    parser.add_argument("--storage", help="of the sweeps; default $AUDIOCONFIT_STORAGE or storage")
    parser.add_argument("--name", help="of the sweep; default sweep")
    parser.add_argument("--out", type=Path, help="folder to write into; default STORAGE/NAME/paper")
    asked = parser.parse_args(arguments)
    return errors.guard(lambda: _write(flags.places(storage=asked.storage, name=asked.name).folder, asked.out))


def _write(folder: Path, out: Path | None) -> int:
    candidates = sorted(confirmation.recorded(folder), key=_order)
    out = out or folder / "paper"
    out.mkdir(parents=True, exist_ok=True)
    page = "\n".join(_page(candidates, StageStore(folder), out))
    (out / PAGE).write_text(page)
    console = Console()
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {out / PAGE}.", soft_wrap=True)
    return 0


def _order(candidate: Candidate) -> tuple[str, str, int]:
    return candidate.dataset, candidate.backbone, list(TITLES).index(candidate.method)


def _page(candidates: Sequence[Candidate], store: StageStore, out: Path) -> Iterator[str]:
    yield "**Table 1.** Datasets.\n"
    yield from _table(["dataset", "classes", "train", "valid", "test", "hours", "split"], _datasets(candidates))
    metrics = " and ".join(sorted({candidate.metric for candidate in candidates}))
    yield f"\n**Table 2.** Test {metrics} in per cent, mean ± standard deviation over seeds or folds.\n"
    yield from _accuracies(candidates)
    yield from _paired(candidates)
    yield from _published(candidates)
    yield "\n**Table 3.** What cosine similarity of test embeddings rests on: the share of the largest dimensions, and"
    yield "how many make up a share; anisotropy is the mean similarity, separability the silhouette of the classes.\n"
    heads = ["cell", "top 1", "top 2", "top 3", "50 %", "80 %", "90 %", "anisotropy", "separability"]
    yield from _table(heads, (_dimensions(candidate, store) for candidate in candidates))
    for picture, said in _pictures(candidates, store, out):
        yield f"\n**{picture.partition('-')[0].replace('figure', 'Figure ')}.** {said}\n\n![]({picture})"


def _table(heads: Sequence[str], rows: "Iterator[list[str]]") -> Iterator[str]:
    """In Markdown."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _datasets(candidates: Sequence[Candidate]) -> Iterator[list[str]]:
    for run in {one.dataset: one.best_run for one in candidates}.values():
        waveforms = audio.load(run.assignment.prepared)
        split = method.split_of(run.recipe, waveforms)
        sides = [str(len(side)) for side in (split.train, split.valid, split.test)]
        hours = f"{waveforms.total_seconds / 3600:.2f}"
        yield [run.recipe.dataset, str(len(split.classes)), *sides, hours, split.protocol]


def _accuracies(candidates: Sequence[Candidate]) -> Iterator[str]:
    """A row per backbone and method, a column per dataset, the best of a column bold."""
    datasets = list(dict.fromkeys(one.dataset for one in candidates))
    found = {(one.backbone, one.method, one.dataset): one for one in candidates}
    best = {name: max(one.test[0] for one in candidates if one.dataset == name) for name in datasets}

    def entry(candidate: Candidate | None) -> str:
        if candidate is None:
            return ""
        leads = candidate.test[0] == best[candidate.dataset]
        return f"**{candidate.shown}**" if leads else candidate.shown

    rows = dict.fromkeys((one.backbone, one.method) for one in sorted(candidates, key=lambda one: _order(one)[1:]))
    cells = ([row[0], TITLES[row[1]], *(entry(found.get((*row, name))) for name in datasets)] for row in rows)
    yield from _table(["backbone", "method", *datasets], cells)


def _paired(candidates: Sequence[Candidate]) -> Iterator[str]:
    """PairTune against FineTune in each cell that has both, on the same test clips."""
    found = {(one.dataset, one.backbone, one.method): one for one in candidates}
    pairs = [
        (one, found.get((one.dataset, one.backbone, "finetune"))) for one in candidates if one.method == "pairtune"
    ]
    leads = [(one, lead) for one, other in pairs if other and (lead := selection.difference(one, other))]
    if not leads:
        return
    yield "\n**PairTune against FineTune**, on the same test clips, paired over seeds or folds; above 0 PairTune is"
    yield "better. Speakers or sources are resampled whole where they are known, else clips.\n"
    rows = (
        [one.dataset, one.backbone, one.metric, f"{lead.gain:+.4f}", f"{lead.low:+.4f} to {lead.high:+.4f}"]
        for one, lead in leads
    )
    yield from _table(["dataset", "backbone", "metric", "difference", "95 per cent interval"], rows)
    ahead, behind = (sum(lead.is_clear and (lead.gain > 0) == better for _, lead in leads) for better in (True, False))
    yield f"\nOf {len(leads)} cells PairTune is ahead beyond doubt in {ahead}, FineTune in {behind}."


def _published(candidates: Sequence[Candidate]) -> Iterator[str]:
    """What others reached with the untouched base models on these datasets."""
    rows = [row for row in references.PUBLISHED if row.dataset in {one.dataset for one in candidates}]
    if not rows:
        return
    yield "\n**Elsewhere.** Published accuracy of frozen base models, in per cent. Other protocols, so no rivals of"
    yield "Table 2: the last column says what stands in train and in test alike.\n"
    names = list(rows[0].accuracies)
    said = (
        [row.dataset, f"{row.source}: {row.protocol}", *(f"{row.accuracies[name]:.1f}" for name in names), row.shared]
        for row in rows
    )
    yield from _table(["dataset", "source, protocol", *names, "on both sides"], said)


def _dimensions(candidate: Candidate, store: StageStore) -> list[str]:
    """Means over the seeds or folds. Without anisotropy, dimensions have no share in it."""
    sides = [_test(run.recipe.stage_key, store) for run in candidate.runs]
    anisotropies = [representation.anisotropy(side.embeddings) for side in sides]
    shares = ["-"] * 6
    if min(anisotropies) > 0:
        found = [representation.contribution(side.embeddings) for side in sides]
        shares = [f"{statistics.fmean(one.top(count) for one in found):.3f}" for count in (1, 2, 3)]
        shares += [f"{statistics.fmean(one.dimensions(share) for one in found):.0f}" for share in (0.5, 0.8, 0.9)]
    apart = [representation.silhouette(side.embeddings, side.labels) for side in sides if side.labels.dim() == 1]
    separability = f"{statistics.fmean(apart):.2f}" if apart else "-"
    return [candidate.cell, *shares, f"{statistics.fmean(anisotropies):.2f}", separability]


def _test(stage: str, store: StageStore) -> Features:
    features = store.test_features(stage)
    assert features is not None  # the confirmation publishes them before its result
    return features


def _pictures(candidates: Sequence[Candidate], store: StageStore, out: Path) -> Iterator[tuple[str, str]]:
    """Each file that was drawn, and what it shows: a pair per dataset and backbone."""
    for dataset, backbone in dict.fromkeys((one.dataset, one.backbone) for one in candidates):
        rivals = [one for one in candidates if (one.dataset, one.backbone) == (dataset, backbone)]
        name = f"{dataset}-{rivals[0].label}.png"
        if _convergence(rivals, store, out / f"figure2-{name}"):
            yield f"figure2-{name}", f"Validation accuracy by epoch, {backbone} on {dataset}."
        if _separability(rivals, store, out / f"figure3-{name}"):
            first = TITLES[rivals[0].method]
            yield f"figure3-{name}", f"The classes of {dataset} that {first} confuses most, {backbone}."


def _convergence(rivals: Sequence[Candidate], store: StageStore, path: Path) -> bool:
    curves = {
        TITLES[one.method]: [_validation(store.curve(run.recipe.stage_key)) for run in one.runs] for one in rivals
    }
    curves = {method: runs for method, runs in curves.items() if any(runs)}  # frozen features have none
    if not curves:
        return False
    figures.convergence(curves, path, score="validation accuracy (nearest neighbours)")
    return True


def _validation(curve: Sequence[dict[str, float]]) -> list[tuple[float, float]]:
    """(epoch, score) of the epochs that were validated."""
    return [(point["epoch"], point["valid_knn"]) for point in curve if "valid_knn" in point]


def _separability(rivals: Sequence[Candidate], store: StageStore, path: Path) -> bool:
    """Of the first method's mistakes on test; the same classes for each method."""
    result = json.loads((rivals[0].best_run.assignment.folder / RESULT).read_text())
    classes, counts = result["classes"], result["confusion"]["counts"]
    clips = [sum(row) for row in counts or []]
    groups = [
        group
        for group in (representation.most_confused(counts) if counts else [])
        if sum(clips[label] for label in group) >= LEAST_CLIPS
    ]
    if not groups:
        return False
    maps = {
        TITLES[one.method]: [_map(_test(one.best_run.recipe.stage_key, store), group, classes) for group in groups]
        for one in rivals
    }
    figures.separability(maps, path)
    return True


def _map(features: Features, group: Sequence[int], classes: Sequence[str]) -> Map:
    rows = torch.isin(features.labels, torch.tensor(group))
    embeddings, labels = features.embeddings[rows], features.labels[rows]
    score = representation.silhouette(embeddings, labels)
    names = [classes[int(label)] for label in labels]
    return Map(representation.project(embeddings), names, caption=f"separability {score:.2f}")


if __name__ == "__main__":
    sys.exit(main())
