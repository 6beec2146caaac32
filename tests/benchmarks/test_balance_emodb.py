"""What balancing the probe gains where classes are of unlike size: frozen backbones on EmoDB, each speaker tested once.
Of every second emotion only each fifth training clip is kept; validation and test stay whole. Two minutes of one core:
`AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_balance_emodb.py`.
"""

import statistics

import heading
import pytest

from audioconfit import encoders, features, pretraining, probe, splits
from audioconfit.audio import Waveforms
from audioconfit.features import Features
from audioconfit.recipe import Balance
from audioconfit.splits import Split

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

CHUNK_SECONDS, PROBE_LR, KEPT = 2.0, 3e-3, 5
PROTOCOL, SPEAKERS = "leave_one_speaker_out", 10
HOW: tuple[Balance, ...] = ("none", "weights", "sampling")


def made_rare(split: Split) -> list[int]:
    """The training clips that are kept, by their number."""
    rare, seen, kept = set(split.classes[1::2]), dict.fromkeys(split.classes, 0), []
    for number, clip in enumerate(split.train):
        (label,) = clip.labels
        if label not in rare or seen[label] % KEPT == 0:
            kept.append(number)
        seen[label] += 1
    return kept


def of_rows(side: Features, rows: list[int]) -> Features:
    return Features(side.embeddings[rows], tuple(side.keys[row] for row in rows), side.labels[rows])


def test_balance(emodb: Waveforms) -> None:
    heading.show(
        "Frozen backbones on EmoDB, each speaker left out once, three emotions made rare: test UAR and accuracy"
    )
    for backbone in pretraining.ARCHITECTURES:
        clips, classes = emodb.corpus.clips, emodb.corpus.classes
        every = features.extract(encoders.load(backbone), emodb, clips, classes=classes, chunk_seconds=CHUNK_SECONDS)
        uar: dict[str, list[float]] = {}
        accuracy: dict[str, list[float]] = {}
        for fold in range(SPEAKERS):
            split = splits.split(emodb.corpus, protocol=PROTOCOL, fold=fold)
            whole, valid, test = features.dealt([every], [split.train, split.valid, split.test])
            train = of_rows(whole, made_rare(split))
            sides = {"all clips": (whole, "none")} | {how: (train, how) for how in HOW}
            for name, (side, how) in sides.items():
                score = probe.fit(side, valid, classes=split.classes, lr=PROBE_LR, balance=how).score(test)
                uar.setdefault(name, []).append(score.uar)
                accuracy.setdefault(name, []).append(score.accuracy)
        for name, scores in uar.items():
            mean, deviation = statistics.fmean(scores), statistics.stdev(scores)
            right = statistics.fmean(accuracy[name])
            print(f"{backbone:14} {name:10} UAR {mean:.3f} ± {deviation:.3f}  accuracy {right:.3f}", flush=True)
        assert statistics.fmean(uar["weights"]) > statistics.fmean(uar["none"])
