"""What the race is worth: how much test accuracy a choice loses against the best candidate, on real emotions with test
and validation speakers drawn anew. Ten minutes of one core:
`AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_regret.py`.

Candidates: the three packaged backbones x each layer x two chunk durations, frozen, with the same probe. Each draw has
four test speakers, one validation speaker and five who train; the further inner folds are those of audioconfit.folds.
"""

from dataclasses import replace
from pathlib import Path

import heading
import pytest
import regret
import torch
from regret import Draw, Judged, Name

from audioconfit import encoders, features, folds, predictions, pretraining, probe
from audioconfit.audio import Waveforms
from audioconfit.features import Features
from audioconfit.splits import Split

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

DRAWS = 20
CHUNKS, LAYERS = (0.5, 2.0), (1, 2, 3)
PROBE_LR = 3e-3


def candidates(waveforms: Waveforms) -> dict[Name, Features]:
    found = {}
    for backbone in pretraining.ARCHITECTURES:
        encoder = encoders.load(backbone)
        layers = list(encoder.model.encoder.layers)
        for layer in LAYERS:
            encoder.model.encoder.layers = torch.nn.ModuleList(layers[:layer])
            for chunk in CHUNKS:
                found[Name(backbone, "frozen", chunk, layer)] = features.extract(
                    encoder, waveforms, waveforms.corpus.clips, classes=waveforms.corpus.classes, chunk_seconds=chunk
                )
    return found


def draw(waveforms: Waveforms, seed: int) -> Split:
    where = regret.sides(waveforms.corpus.clips, seed)
    train, valid, test = (
        tuple(clip for clip in waveforms.corpus.clips if clip.group is not None and where[clip.group] == side)
        for side in ("train", "valid", "test")
    )
    return Split(train, valid, test, waveforms.corpus.classes, "speakers drawn")


def judge(found: Features, split: Split) -> Judged:
    said, valid, test = [], [], 0.0
    for number, fold in enumerate(folds.cut(split).splits):
        sides = features.dealt([found], [fold.train, fold.valid, fold.test])
        linear = probe.fit(sides[0], sides[1], classes=split.classes, lr=PROBE_LR)
        said.append(predictions.of(fold.valid, sides[1].labels, linear.logits(sides[1].embeddings)))
        valid.append(linear.score(sides[1]).accuracy)
        test = linear.score(sides[2]).accuracy if number == 0 else test
    return Judged(said, valid, test)


def renamed(judged: Draw, method: str) -> Draw:
    """The same candidates under another method's name: the race runs all of a frozen backbone's recipes."""
    return {replace(name, method=method): one for name, one in judged.items()}


def raced(judged: Draw, root: Path, *, count: int, method: str) -> tuple[Name, int]:
    chosen, ran = regret.raced(renamed(judged, method), root, count=count)
    return replace(chosen, method="frozen"), ran


def test_what_a_choice_loses(emodb: Waveforms, tmp_path: Path) -> None:
    heading.show(
        f"EmoDB, {DRAWS} draws of four test speakers: test accuracy below the best of the candidates, mean ± se"
    )
    found = candidates(emodb)
    draws = [
        {name: judge(found[name], split) for name in found} for split in (draw(emodb, seed) for seed in range(DRAWS))
    ]
    holdout, race = "holdout: one validation speaker", "race of 4 finalists"
    lost = regret.table(
        draws,
        {
            holdout: lambda judged, root: (regret.by_holdout(judged), 0),
            race: lambda judged, root: raced(judged, root, count=4, method="pairtune"),
            "race of 9 finalists": lambda judged, root: raced(judged, root, count=9, method="pairtune"),
            "race of all, as frozen backbones do": lambda judged, root: raced(judged, root, count=4, method="frozen"),
        },
        tmp_path,
    )
    assert lost[race] < lost[holdout]
