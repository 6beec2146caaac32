"""What each layer tells of an emotion: frozen backbones on EmoDB, every speaker tested once by probes that never heard
them. Five minutes of one core: `AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_layers_emodb.py`.
"""

import statistics

import heading
import pytest

from audioconfit import encoders, features, pretraining, probe, splits
from audioconfit.audio import Waveforms
from audioconfit.features import Features

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

CHUNK_SECONDS, PROBE_LR = 2.0, 3e-3
PROTOCOL, SPEAKERS = "leave_one_speaker_out", 10


def reached(every: Features, waveforms: Waveforms, layer: int | str) -> list[float]:
    """Test accuracy by speaker."""
    found = []
    for fold in range(SPEAKERS):
        split = splits.split(waveforms.corpus, protocol=PROTOCOL, fold=fold)
        train, valid, test = features.dealt([every], [split.train, split.valid, split.test])
        found.append(probe.fit(train, valid, classes=split.classes, lr=PROBE_LR, layer=layer).score(test).accuracy)
    return found


def test_score_by_layer(emodb: Waveforms) -> None:
    heading.show("Frozen backbones on EmoDB, each speaker left out once: test accuracy by layer, mean ± deviation")
    whole, clips = {}, emodb.corpus.clips
    for backbone in pretraining.ARCHITECTURES:
        encoder = encoders.load(backbone)
        how = {"chunk_seconds": CHUNK_SECONDS, "every_layer": True}
        every = features.extract(encoder, emodb, clips, classes=emodb.corpus.classes, **how)
        speakers = {layer: reached(every, emodb, layer) for layer in encoders.layers(backbone)}
        for layer, scores in speakers.items():
            print(
                f"{backbone:14} {layer!s:9} {statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}", flush=True
            )
        whole[backbone] = {layer: statistics.fmean(scores) for layer, scores in speakers.items()}
        last = features.extract(encoder, emodb, clips, classes=emodb.corpus.classes, chunk_seconds=CHUNK_SECONDS)
        stored = statistics.fmean(reached(last, emodb, "last"))
        print(f"{backbone:14} last, in float32: {stored:.4f}, in half precision {whole[backbone]['last']:.4f}")
        assert abs(stored - whole[backbone]["last"]) < 0.01
    for by_layer in whole.values():
        assert max(by_layer.values()) > by_layer[0]
