"""Tables of what a sweep found: the paper's three, scores by class and by speaker, and what sets the methods apart."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from audioconfit import audio, bootstrap, method, representation, scores
from audioconfit.bootstrap import Difference
from audioconfit.errors import InputError
from audioconfit.features import Features
from sweeps.outcome import references, selection
from sweeps.outcome.selection import Candidate
from sweeps.report import accounts
from sweeps.report.record import METHODS, Record
from sweeps.report.values import TITLES, Table, Value, searched
from sweeps.trial.stages import StageStore


def of(records: Sequence[Record]) -> list[Table]:
    """All that these sweeps have rows for, the champions first. Of several, each row begins with its sweep's name."""
    makers: list[Callable[[Record], Table]] = [
        *(_champions, _settings, _datasets, _cells, _paired, _dimensions, _classes, _groups),
        *(_layers, accounts.search, accounts.importances, accounts.costs, accounts.phases),
        *(accounts.race, accounts.left_out, accounts.failures),
    ]
    found = [_joined([make(record) for record in records], records) for make in makers]
    found[3] = _filled(found[3])
    found.insert(3, _accuracies(records))
    found.insert(6, _published(records))
    return [table for table in found if table.rows]


def _joined(tables: Sequence[Table], records: Sequence[Record]) -> Table:
    """The tables of several sweeps as one."""
    first = tables[0]
    if len(tables) == 1:
        return first
    rows = [[record.name, *row] for record, table in zip(records, tables, strict=True) for row in table.rows]
    notes = [f"{record.name}: {table.note}" for record, table in zip(records, tables, strict=True) if table.rows]
    note = first.note if len({table.note for table in tables}) == 1 else " ".join(notes)
    return Table(first.name, first.title, ["sweep", *first.columns], rows, note)


def _filled(table: Table) -> Table:
    """Without the columns that no row fills: single labels have no average precision, label sets no log loss."""
    kept = [at for at in range(len(table.columns)) if any(row[at] is not None for row in table.rows)]
    rows = [[row[at] for at in kept] for row in table.rows]
    return replace(table, columns=[table.columns[at] for at in kept], rows=rows)


def _champions(record: Record) -> Table:
    rows: list[list[Value]] = []
    for dataset in record.datasets:
        rivals = record.rivals(dataset)
        if not rivals:
            continue
        best, second = rivals[0], rivals[1] if len(rivals) > 1 else None
        lead = selection.difference(best, second) if second else None
        against = f"{second.label}, {TITLES[second.method]}" if second else "there was no other"
        ahead: list[Value] = [None, None, None] if lead is None else [*_signed(lead)]
        verdict = "" if lead is None else _verdict(lead)
        who = [dataset, best.label, TITLES[best.method], scores.title(best.metric), best.shown, _interval(best)]
        rows.append([*who, against, *ahead, verdict])
    note = (
        "Chosen on validation and inner folds; test was read afterwards. The interval (95 per cent) is of the run that "
        "is handed over, the difference to the runner-up is on the same test clips, speakers or sources resampled "
        "whole."
    )
    heads = (
        *("dataset", "backbone", "method", "metric", "test", "interval"),
        *("runner-up", "ahead of it by", "from", "to", "doubt"),
    )
    return Table("champions", "The best probe of each task, and its doubt", heads, rows, note)


def _verdict(lead: Difference) -> str:
    if not lead.is_clear:
        return "cannot be told apart on test"
    return f"{'ahead' if lead.gain > 0 else 'behind'} beyond doubt on test"


def _signed(lead: Difference) -> tuple[str, str, str]:
    """With its sign: words, for a float would lose the +."""
    return f"{lead.gain:+.4f}", f"{lead.low:+.4f}", f"{lead.high:+.4f}"


def _interval(candidate: Candidate) -> str:
    field, metrics = scores.field(candidate.metric), candidate.best_run.metrics
    low, high = (metrics.get(f"test_{field}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return ""
    return f"{low:.3f} to {high:.3f}" if candidate.metric == "log_loss" else f"{100 * low:.1f} to {100 * high:.1f}"


def _settings(record: Record) -> Table:
    names = dict.fromkeys((*searched(record.cells), "epochs"))
    rows = [[one.cell, *(getattr(one.best_run.recipe, name) for name in names)] for one in record.candidates]
    return Table("settings", "The settings that each cell was confirmed with", ("cell", *names), rows)


def _datasets(record: Record) -> Table:
    rows: list[list[Value]] = []
    for run in {one.dataset: one.best_run for one in record.candidates}.values():
        try:
            waveforms = audio.load(run.assignment.prepared)
        except InputError:
            waveforms = None
        if waveforms is None or waveforms.fingerprint != run.recipe.fingerprint:
            rows.append([run.recipe.dataset, *[None] * 5, "its recordings are not there as they were"])
            continue
        split = method.split_of(run.recipe, waveforms)
        sides = [len(side) for side in (split.train, split.valid, split.test)]
        hours = f"{waveforms.total_seconds / 3600:.2f}"
        rows.append([run.recipe.dataset, len(split.classes), *sides, hours, split.protocol])
    return Table(
        "table1", "Table 1. Datasets", ("dataset", "classes", "train", "valid", "test", "hours", "split"), rows
    )


def _accuracies(records: Sequence[Record]) -> Table:
    """A row per sweep, backbone and method, a column per dataset, the best of a column marked."""
    several = len(records) > 1
    datasets = sorted({name for record in records for name in record.datasets})
    found = {(r.name, c.label, c.method, c.dataset): c for r in records for c in r.candidates}
    wanted = {
        (record.name, _label(name, cell), cell["method"], cell["dataset"])
        for record in records
        for name, cell in record.cells.items()
    }
    lines = sorted({key[:3] for key in wanted}, key=lambda key: (key[0], key[1], METHODS.index(key[2])))
    rows, marked = [], set()
    for number, line in enumerate(lines):
        row: list[Value] = [line[0]] if several else []
        row += [line[1], TITLES[line[2]]]
        for dataset in datasets:
            one = found.get((*line, dataset))
            if one and one.test[0] == max(each.test[0] for key, each in found.items() if key[3] == dataset):
                marked.add((number, len(row)))
            row.append(one.shown if one else "not confirmed" if (*line, dataset) in wanted else None)
        rows.append(row)
    metrics = " and ".join(sorted({scores.title(one.metric) for one in found.values()})) or "scores"
    title = f"Table 2. Test {metrics}"
    heads = (*(["sweep"] if several else []), "backbone", "method", *datasets)
    return Table(
        "table2",
        title,
        heads,
        rows,
        "Mean ± standard deviation over seeds or folds, of a single run its 95 per cent interval; in per cent, the log "
        "loss in nats. The best of a dataset stands out.",
        frozenset(marked),
    )


def _label(name: str, cell: Mapping[str, Any]) -> str:
    """What stands for the backbone in a cell's name."""
    return name.removesuffix(f".{cell['method']}").removesuffix(f".{cell['dataset']}")


def _cells(record: Record) -> Table:
    def mean(candidate: Candidate, name: str) -> float | None:
        values = [run.metrics[name] for run in candidate.runs if name in run.metrics]
        return round(statistics.fmean(values), 4) if values else None

    metrics = ("accuracy", "uar", "macro_f1", "map", "log_loss")
    names = (*(f"test_{scores.field(name)}" for name in metrics), "test_knn", "valid_score")
    rows = [
        [one.cell, len(one.runs), *(mean(one, name) for name in names), round(one.test[1], 4), _interval(one)]
        for one in record.candidates
    ]
    titles = (scores.title(name) for name in metrics)
    heads = ("cell", "runs", *titles, "kNN", "validation", "sd", "95 per cent, one run")
    return Table("scores", "Scores of each cell on test", heads, rows, "Means over seeds or folds, shares of 1.")


def _paired(record: Record) -> Table:
    """PairTune against FineTune in each cell that has both, on the same test clips."""
    found = {(one.dataset, one.backbone, one.method): one for one in record.candidates}
    pairs = [(one, found.get((*key[:2], "finetune"))) for key, one in found.items() if key[2] == "pairtune"]
    leads = [(one, lead) for one, other in pairs if other and (lead := selection.difference(one, other))]
    rows = [
        [one.dataset, one.label, scores.title(one.metric), *_signed(lead), "yes" if lead.is_clear else "no"]
        for one, lead in leads
    ]
    ahead, behind = (sum(lead.is_clear and (lead.gain > 0) == better for _, lead in leads) for better in (True, False))
    note = (
        "On the same test clips, paired over seeds or folds; above 0 PairTune is better. Speakers or sources are "
        f"resampled whole where they are known, else clips. Of {len(leads)} "
        f"{'cells' if len(leads) != 1 else 'cell'} PairTune is "
        f"ahead beyond doubt in {ahead}, FineTune in {behind}."
    )
    heads = ("dataset", "backbone", "metric", "difference", "from", "to", "excludes 0")
    return Table("significance", "PairTune against FineTune", heads, rows, note)


def _published(records: Sequence[Record]) -> Table:
    """What others reached with the untouched base models on these datasets."""
    datasets = {name for record in records for name in record.datasets}
    found = [row for row in references.PUBLISHED if row.dataset in datasets]
    names = list(references.PUBLISHED[0].accuracies)
    rows = [
        [row.dataset, f"{row.source}: {row.protocol}", *(f"{row.accuracies[name]:.1f}" for name in names), row.shared]
        for row in found
    ]
    note = (
        "Published accuracy of frozen base models, in per cent. Other protocols, so no rivals of Table 2: the last "
        "column says what stands in train and in test alike."
    )
    return Table("published", "Elsewhere", ("dataset", "source, protocol", *names, "on both sides"), rows, note)


def _dimensions(record: Record) -> Table:
    """Means over the seeds or folds. Without anisotropy, dimensions have no share in it."""
    note = (
        "What cosine similarity of test embeddings rests on: the share of the largest dimensions, and how many make up "
        "a share; anisotropy is the mean similarity, separability the silhouette of the classes."
    )
    heads = ("cell", "top 1", "top 2", "top 3", "50 %", "80 %", "90 %", "anisotropy", "separability")
    rows = [_shares(one, record.store) for one in record.candidates]
    return Table("table3", "Table 3. Dimensions of the embeddings", heads, rows, note)


def _shares(candidate: Candidate, store: StageStore) -> list[Value]:
    sides = [test_features(run.recipe.stage_key, store) for run in candidate.runs]
    anisotropies = [representation.anisotropy(side.embeddings) for side in sides]
    shares = ["-"] * 6
    if min(anisotropies) > 0:
        found = [representation.contribution(side.embeddings) for side in sides]
        shares = [f"{statistics.fmean(one.top(count) for one in found):.3f}" for count in (1, 2, 3)]
        shares += [f"{statistics.fmean(one.dimensions(share) for one in found):.0f}" for share in (0.5, 0.8, 0.9)]
    apart = [representation.silhouette(side.embeddings, side.labels) for side in sides if side.labels.dim() == 1]
    separability = f"{statistics.fmean(apart):.2f}" if apart else "-"
    return [candidate.cell, *shares, f"{statistics.fmean(anisotropies):.2f}", separability]


def test_features(stage: str, store: StageStore) -> Features:
    """Of the last layer. The confirmation publishes them before its result."""
    features = store.test_features(stage)
    assert features is not None
    return features.last()


def result_of(candidate: Candidate) -> dict[str, Any]:
    """What the run that is handed over left: classes, confusion, groups."""
    return candidate.best_run.assignment.read_result()


def _classes(record: Record) -> Table:
    """Of each task's best probe."""
    rows: list[list[Value]] = []
    for one in _best(record):
        result = result_of(one)
        counts = result["confusion"]["counts"]
        if counts is None:
            continue
        for place, name in enumerate(result["classes"]):
            there, called = sum(counts[place]), sum(row[place] for row in counts)
            recall, precision = _share(counts[place][place], there), _share(counts[place][place], called)
            wrong = max(((count, other) for other, count in enumerate(counts[place]) if other != place), default=(0, 0))
            taken = result["classes"][wrong[1]] if wrong[0] else None
            rows.append([one.cell, name, there, recall, precision, taken, wrong[0] or None])
    heads = ("cell", "class", "test clips", "recall", "precision", "most often taken for", "times")
    return Table("classes", "By class", heads, rows, "Of the best probe of each task, the run that is handed over.")


def _layers(record: Record) -> Table:
    """Of the cells whose probe could read every layer."""
    rows: list[list[Value]] = []
    for one in record.candidates:
        chosen = one.best_run.recipe.probe_layer
        for layer, score in one.by_layer.items():
            rows.append([one.cell, layer, round(abs(score), 4), "yes" if layer == chosen else None])
    note = (
        "The validation score by the layer that the probe reads, means over seeds or folds: layer 0 is what enters the "
        "first one, mean and weighted are of all. Chosen is the one that the cell was confirmed with."
    )
    return Table("layers", "Score by layer", ("cell", "layer", "validation", "chosen"), rows, note)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _best(record: Record) -> Iterator[Candidate]:
    for dataset in record.datasets:
        yield from record.rivals(dataset)[:1]


def _groups(record: Record) -> Table:
    """Of each task's best probe, the worst group first."""
    rows: list[list[Value]] = []
    worst = []
    for one in _best(record):
        groups: Mapping[str, Mapping[str, Any]] = result_of(one).get("groups") or {}
        ordered = sorted(groups.items(), key=lambda item: (item[1]["accuracy"], item[0]))
        for name, group in ordered:
            sure = bootstrap.wilson(round(group["accuracy"] * group["clips"]), group["clips"])
            between = f"{sure.low:.3f} to {sure.high:.3f}"
            rows.append([one.cell, name, group["clips"], round(group["accuracy"], 4), between])
        if ordered:
            worst.append(f"{ordered[0][0]} of {one.dataset} ({ordered[0][1]['accuracy']:.3f})")
    note = (
        f"Speakers or source recordings on test, the worst first: {', '.join(worst)}. Wilson's interval."
        if worst
        else ""
    )
    heads = ("cell", "group", "test clips", "accuracy", "95 per cent interval")
    return Table("groups", "By speaker or source", heads, rows, note)
