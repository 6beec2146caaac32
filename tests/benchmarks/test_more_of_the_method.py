"""What further parts of contrastive learning gain beside PairTune as it is: a projector of another depth, a temperature
that falls, a memory of earlier batches, another layer for the loss. hubert-tiny on EmoDB, five seeds.

A quarter of an hour of one core: `AUDIOCONFIT_DATA=... pytest -m benchmark -s
tests/benchmarks/test_more_of_the_method.py`. Each run's scores are printed when it ends, seed by seed, so that what is
compared has the same seeds at any time; AUDIOCONFIT_KEPT=FILE keeps these lines, and a second start goes on from there.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import heading
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audioconfit import encoders, features, losses, mining, probe, randomness, splits, training
from audioconfit.audio import Waveforms
from audioconfit.batches import Batches
from audioconfit.caching import Loss
from audioconfit.encoders import Encoder
from audioconfit.mining import Pairs
from audioconfit.pairtune import Projector
from audioconfit.splits import Split
from audioconfit.training import Settings

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3 * 3600), pytest.mark.usefixtures("one_thread")]

# Where PairTune is ahead of the frozen backbone: audioconfit/pretraining/README.md.
BACKBONE, LR, EPOCHS, BATCH, CHUNK_SECONDS, PROBE_LR = "hubert-tiny", 1e-3, 10, 32, 1.0, 3e-3
WARMUP_STEPS, PROJECTION, TEMPERATURE, MARGIN = 30, 256, 0.1, 0.1  # the recipe's defaults
SEEDS = 5
WARM, COLD = 0.2, 0.05  # the temperature that falls
REMEMBERED, BEFORE = 192, 8  # rows of earlier batches, and steps before the loss sees them: an epoch of EmoDB
AS_IT_IS = "as it is"


class Untouched(nn.Module):
    """No projector: the loss reads the embedding itself."""

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings


class TwoLayers(nn.Module):
    """The projector of SimCLR: a hidden layer and ReLU between (Chen et al. 2020)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, PROJECTION), nn.ReLU(), nn.Linear(PROJECTION, PROJECTION))

    def forward(self, embeddings: Tensor) -> Tensor:
        projected: Tensor = self.layers(F.normalize(embeddings, dim=1))
        return projected


supcon = partial(losses.supcon, temperature=TEMPERATURE, miner=mining.miner("multi_similarity", margin=MARGIN))


class Falling:
    """SupCon whose temperature goes from WARM to COLD along a half cosine over all steps; called once a step."""

    def __init__(self, steps: int) -> None:
        self.step, self.last = 0, steps - 1

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        share = (1 + math.cos(math.pi * self.step / self.last)) / 2
        self.step += 1
        return supcon(embeddings, labels, temperature=COLD + (WARM - COLD) * share)


class Memory:
    """SupCon of a batch against itself and the last REMEMBERED rows before it, as they were embedded then: the
    cross-batch memory of Wang et al. 2020. What is remembered is a positive or a negative, never an anchor.
    """

    def __init__(self, steps: int) -> None:
        self.step = 0
        self.rows: Tensor | None = None
        self.labels: Tensor | None = None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        every, known = embeddings, labels
        if self.rows is not None and self.labels is not None:
            every, known = torch.cat([embeddings, self.rows]), torch.cat([labels, self.labels])

        def mined(similarity: Tensor, pairs: Pairs) -> Pairs:
            kept = mining.multi_similarity(similarity, pairs, margin=MARGIN)
            new = torch.arange(len(similarity), device=similarity.device)[:, None] < len(labels)
            return Pairs(kept.positives & new, kept.negatives)  # without a positive: no anchor

        self.step += 1
        seen = self.step > BEFORE
        value = supcon(every if seen else embeddings, known if seen else labels, miner=mined)
        self.rows, self.labels = every[:REMEMBERED].detach(), known[:REMEMBERED]
        return value


@dataclass(frozen=True)
class Variant:
    """What differs from the method as it is."""

    head: Callable[[Encoder], nn.Module] = lambda encoder: Projector(encoder.dim, PROJECTION)
    loss: Callable[[int], Loss] = lambda steps: supcon


VARIANTS = {
    AS_IT_IS: Variant(),
    "no projector": Variant(head=lambda encoder: Untouched()),
    "projector of two layers": Variant(head=lambda encoder: TwoLayers(encoder.dim)),
    f"temperature {WARM} to {COLD}": Variant(loss=Falling),
    f"memory of {REMEMBERED} rows": Variant(loss=Memory),
    "pair_layer=mean": Variant(head=lambda encoder: Projector(encoder.dim, PROJECTION, layer="mean")),
    "pair_layer=weighted": Variant(
        head=lambda encoder: Projector(encoder.dim, PROJECTION, layer="weighted", layers=encoder.layer_count)
    ),
}


def tuned(variant: Variant, waveforms: Waveforms, split: Split, seed: int) -> Encoder:
    """Stage 1 as `method.tune` has it, with what the variant changes."""
    encoder = encoders.load(BACKBONE, seed=seed)
    batches = Batches(waveforms, split.train, split.classes, batch_size=BATCH, chunk_seconds=CHUNK_SECONDS, seed=seed)
    with randomness.private(seed, 0, torch.device("cpu")):
        head = variant.head(encoder)
    settings = Settings(lr=LR, epochs=EPOCHS, seed=seed, warmup_steps=WARMUP_STEPS)
    assert training.fit(encoder, head, variant.loss(EPOCHS * len(batches)), batches, settings)
    return encoder


def reached(encoder: Encoder, waveforms: Waveforms, split: Split, seed: int) -> dict[str, float]:
    """Accuracy on validation and test, of a probe on the features of the last layer."""
    train, valid, test = (
        features.extract(encoder, waveforms, clips, classes=split.classes, chunk_seconds=CHUNK_SECONDS)
        for clips in (split.train, split.valid, split.test)
    )
    fitted = probe.fit(train, valid, classes=split.classes, lr=PROBE_LR, seed=seed)
    return {"valid": fitted.score(valid).accuracy, "test": fitted.score(test).accuracy}


def beyond_doubt(gains: list[float]) -> bool:
    """Whether the mean of paired differences is further above 0 than two of its standard errors."""
    return statistics.fmean(gains) > 2 * statistics.stdev(gains) / math.sqrt(len(gains))


def test_nothing_gains_beyond_doubt(emodb: Waveforms, tmp_path: Path) -> None:
    heading.show(f"{BACKBONE} on EmoDB, {EPOCHS} epochs, {SEEDS} seeds: accuracy, and paired differences ± se")
    split = splits.split(emodb.corpus)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("frozen", *VARIANTS)}
    kept = Path(os.environ.get("AUDIOCONFIT_KEPT", tmp_path / "kept.jsonl"))
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    known = {(one["epochs"], one["seed"], one["variant"]): one for one in lines}
    for seed in range(SEEDS):
        for name, scores in found.items():
            if (one := known.get((EPOCHS, seed, name))) is None:
                began = time.process_time()
                variant = VARIANTS.get(name)
                encoder = encoders.load(BACKBONE, seed=seed) if variant is None else tuned(variant, emodb, split, seed)
                one = {"epochs": EPOCHS, "seed": seed, "variant": name, **reached(encoder, emodb, split, seed)}
                one["seconds"] = round(time.process_time() - began, 1)
                with kept.open("a") as file:
                    file.write(json.dumps(one) + "\n")
            print(json.dumps(one), flush=True)
            scores.append(one)
    clear = []
    for name, scores in found.items():
        said, gained = [], []
        for side in ("valid", "test"):
            values = [one[side] for one in scores]
            gains = [one[side] - base[side] for one, base in zip(scores, found[AS_IT_IS], strict=True)]
            error = statistics.stdev(gains) / math.sqrt(SEEDS)
            gained.append(beyond_doubt(gains))
            said.append(
                f"{side} {statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} "
                f"({statistics.fmean(gains):+.3f} ± {error:.3f})"
            )
        print(f"{name:26} {'  '.join(said)}")
        clear += [name] if all(gained) and name != "frozen" else []
    assert not clear, f"{clear} should be settings of the recipe."
