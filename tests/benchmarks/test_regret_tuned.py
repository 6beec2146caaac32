"""What a choice of trained cells loses: the three packaged backbones x PairTune and FineTune x two chunk durations,
trained anew on each inner fold, in five draws of EmoDB's speakers.

300 trainings of ten epochs: five hours of one core, minutes of a GPU with cores enough to feed it:
`AUDIOCONFIT_DATA=... AUDIOCONFIT_WORKERS=12 pytest -m benchmark -s tests/benchmarks/test_regret_tuned.py`.
AUDIOCONFIT_KEPT=FOLDER keeps what was trained, and a second start goes on from there.
"""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import heading
import pytest
import regret
import torch
from regret import Judged, Name

from audioconfit import audio, backbones, files, folds, method, predictions, pretraining
from audioconfit.audio import Waveforms
from audioconfit.recipe import Recipe

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(6 * 3600)]

DRAWS, EPOCHS = 5, 10
NAMES = [
    Name(backbone, how, chunk)
    for backbone in pretraining.ARCHITECTURES
    for how in ("pairtune", "finetune")
    for chunk in (0.5, 2.0)
]


@dataclass(frozen=True)
class Training:
    """One candidate on one inner fold of one draw."""

    name: Name
    draw: int
    fold: int

    def left(self, kept: Path) -> Path:
        name = self.name
        return kept / f"{name.backbone}-{name.method}-{name.chunk}-draw{self.draw}-fold{self.fold}"


def drawn(waveforms: Waveforms, seed: int) -> Waveforms:
    """EmoDB with the sides of the draw, as a corpus that brings its own lists."""
    where = regret.sides(waveforms.corpus.clips, seed)
    clips = tuple(replace(clip, split=where[clip.group or ""]) for clip in waveforms.corpus.clips)
    return replace(waveforms, corpus=replace(waveforms.corpus, clips=clips, protocol="given"))


def train(training: Training, prepared: Path, kept: Path) -> None:
    """Leaves the validation predictions, their accuracy and, of the first fold, the test accuracy."""
    if (training.left(kept) / "scores.json").exists():
        return
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, waveforms = training.name, drawn(audio.load(prepared), training.draw)
    recipe = Recipe(
        dataset="emodb",
        fingerprint=waveforms.fingerprint,
        backbone=name.backbone,
        method=name.method,
        chunk_seconds=name.chunk,
        lr=backbones.find(name.backbone).lr,
        epochs=EPOCHS,
        inner_fold=training.fold,
    )
    stage = method.tune(recipe, waveforms, device=device)
    assert stage is not None
    split = method.split_of(recipe, waveforms)
    probes, result = method.fit_probe(recipe, stage.train, stage.valid, split, device=device)
    scored = {"valid": result.valid.accuracy}
    if training.fold == 0:
        test = method.features_of_test(recipe, stage.encoder, waveforms, device=device)
        scored["test"] = method.evaluate(result, probes, test, split, device=device).test.accuracy
    folder = training.left(kept)
    folder.mkdir(parents=True, exist_ok=True)
    result.predictions["valid"].save(folder / "valid.safetensors")
    files.write(folder / "scores.json", json.dumps(scored))


def judged(name: Name, draw: int, count: int, kept: Path) -> Judged:
    folders = [Training(name, draw, fold).left(kept) for fold in range(count)]
    scored = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    said = [predictions.load(folder / "valid.safetensors") for folder in folders]
    return Judged(said, [one["valid"] for one in scored], scored[0]["test"])


def test_what_a_choice_of_trained_cells_loses(emodb: Waveforms, emodb_store: Path, tmp_path: Path) -> None:
    heading.show(f"EmoDB, {DRAWS} draws, {len(NAMES)} trained candidates: test accuracy below the best, mean ± se")
    kept = Path(os.environ.get("AUDIOCONFIT_KEPT", tmp_path / "kept"))
    counts = [
        len(folds.cut(method.split_of(Recipe(dataset="emodb", fingerprint="", backbone=NAMES[0].backbone), one)))
        for one in (drawn(emodb, draw) for draw in range(DRAWS))
    ]
    trainings = [Training(name, draw, fold) for draw in range(DRAWS) for fold in range(counts[draw]) for name in NAMES]
    workers = int(os.environ.get("AUDIOCONFIT_WORKERS", "1"))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for begun in [pool.submit(train, training, emodb_store, kept) for training in trainings]:
            begun.result()
    draws = [{name: judged(name, draw, counts[draw], kept) for name in NAMES} for draw in range(DRAWS)]
    holdout, race = "holdout: one validation speaker", "race of 4 finalists, one per cell at least"
    lost = regret.table(
        draws,
        {
            holdout: lambda judged, root: (regret.by_holdout(judged), 0),
            race: lambda judged, root: regret.raced(judged, root, count=4),
            "race of all twelve": lambda judged, root: regret.raced(judged, root, count=12),
        },
        tmp_path,
    )
    assert lost[race] < lost["any candidate, on average"]
