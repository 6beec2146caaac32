"""What pre-training is worth: the packaged backbones on real emotions, few clips and many classes. Half an hour of one
core: `AUDIOCONFIT_DATA=... pytest -m benchmark -s tests/benchmarks/test_pretrained.py` (tuning wav2vec2-tiny alone; an
hour for all three).

Everything goes through audioconfit.recipe. Learning rates, of stage 1 and of the probe, are chosen on validation from
the same grids for PairTune and FineTune, with seed 0; test is read once per seed for the chosen ones. EmoDB: test
speakers 12, 14, 15, 16, validation speaker 11. Few clips and many speakers are tried with wav2vec2-tiny.

On 2 shared cores under load 0.3 to 3, 2026-11-21, test accuracy. Frozen: wav2vec2-tiny 0.667, hubert-tiny 0.623,
wavlm-tiny 0.675; log-mel statistics 0.519; untrained 0.35 to 0.40 (random), 0.46 to 0.47 (filters). Over 5 seeds,
halves of clips, frozen / PairTune / FineTune: wav2vec2-tiny 0.666 / 0.633 / 0.608, hubert-tiny 0.623 / 0.670 / 0.619,
wavlm-tiny 0.661 / 0.645 / 0.623 (deviations 0.002 to 0.027). Clips per class: 5: 0.517 / 0.519 / 0.491; 10: 0.580 /
0.577 / 0.545; 20: 0.596 / 0.606 / 0.597 (deviations 0.005 to 0.049). Speakers: 10: 0.433 / 0.450 / 0.433; 50: 0.190 /
0.223 / 0.170; 200: 0.072 / 0.100 / 0.048.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import heading
import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audioconfit import audio, corpora, encoders, method, pretraining, probe, scores, splits
from audioconfit.audio import SCALE, Waveforms
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.features import Features
from audioconfit.method import Probes, Result
from audioconfit.pretraining import Objective, blank, held_out, speech, views
from audioconfit.pretraining.held_out import Embed
from audioconfit.recipe import Method, Recipe

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

NAMES = tuple(pretraining.ARCHITECTURES)
OTHERS = os.environ.get("AUDIOCONFIT_PRETRAINED", "").split()  # folders of more backbones to judge, as of other seeds
TUNED: tuple[Method, ...] = ("pairtune", "finetune")
LRS, PROBE_LRS = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
EPOCHS, BATCH, CHUNK = 20, 32, 1.0
SEEDS = 5
FEW = (5, 10, 20)  # clips per class
DRAWS = 3  # of the few clips
MANY = {10: 4, 50: 2, 200: 1}  # classes: sets of speakers
MANY_EPOCHS = 10
ABLATION_STEPS, TIMED_STEPS, ALL = 1000, 9, "all of it"
ABLATIONS: dict[str, dict[str, Any]] = {
    ALL: {},
    f"{ALL}, seed 1": {"seed": 1},
    f"{ALL}, seed 2": {"seed": 2},
    "masked prediction alone": {
        "objective": Objective(frames=0, melody=0, colour=0, course=0, movement=0, making=0, contrast=0)
    },
    "without statistics of the clip": {"objective": Objective(colour=0, course=0, movement=0)},
    "without how the clip was made": {"objective": Objective(making=0)},
    "the usual convolutions": {"shape": blank.USUAL_FRONT, "start": "random"},
}
HEARD, SPOKEN = 4, 8  # clips per generated speaker: to train on, and in all


def recipe_of(waveforms: Waveforms, backbone: str, way: Method, **changes: Any) -> Recipe:
    return Recipe(
        dataset=waveforms.corpus.name,
        fingerprint=waveforms.fingerprint,
        weights=encoders.fingerprint(backbone),
        backbone=backbone,
        method=way,
        epochs=EPOCHS,
        batch_size=BATCH,
        chunk_seconds=CHUNK,
    ).model_copy(update=changes)


def best(waveforms: Waveforms, recipes: Sequence[Recipe]) -> tuple[Recipe, float]:
    """Of these recipes with each probe rate the one that is best on validation, and its test accuracy, read now."""
    found: list[tuple[float, Encoder, Probes, Result]] = []
    for one in recipes:
        stage = method.tune(one, waveforms)
        assert stage is not None
        split = method.split_of(one, waveforms)
        for rate in PROBE_LRS:
            fitted = one.model_copy(update={"probe_lr": rate})
            probes, result = method.fit_probe(fitted, stage.train, stage.valid, split)
            found.append((result.valid.headline, stage.encoder, probes, result))
    _, encoder, probes, result = max(found, key=lambda entry: entry[0])
    test = method.features_of_test(result.recipe, encoder, waveforms)
    read = method.evaluate(result, probes, test, method.split_of(result.recipe, waveforms))
    assert read.test is not None
    return result.recipe, read.test.accuracy


def accuracies(waveforms: Waveforms, backbone: str, way: Method, seeds: int) -> tuple[list[float], str]:
    """Test accuracy for each seed at the rates that validation chose with seed 0, and these rates."""
    return across([waveforms] * seeds, backbone, way)


def across(sets: Sequence[Waveforms], backbone: str, way: Method, *, epochs: int = EPOCHS) -> tuple[list[float], str]:
    """As `accuracies`, but each seed has data of its own; the first set chooses."""
    rates = (1e-3,) if way == "frozen" else LRS
    chosen, first = best(sets[0], [recipe_of(sets[0], backbone, way, lr=rate, epochs=epochs) for rate in rates])
    others = []
    for seed, waveforms in enumerate(sets[1:], start=1):
        data = {"dataset": waveforms.corpus.name, "fingerprint": waveforms.fingerprint}
        result = method.run(chosen.model_copy(update={"seed": seed} | data), waveforms)
        assert result is not None
        assert result.test is not None
        others.append(result.test.accuracy)
    return [first, *others], f"lr {chosen.lr:g}, probe {chosen.probe_lr:g}"


def frozen_accuracy(waveforms: Waveforms, backbone: str) -> float:
    """Of untouched features, the chunk (whole clips or halves) and the probe's rate chosen on validation."""
    chunks = (CHUNK, 2 * CHUNK)
    return best(waveforms, [recipe_of(waveforms, backbone, "frozen", chunk_seconds=chunk) for chunk in chunks])[1]


def line(name: str, reached: Sequence[float], said: str = "") -> str:
    spread = f" ± {statistics.stdev(reached):.3f}" if len(reached) > 1 else ""
    return f"{name:<34} {statistics.fmean(reached):.3f}{spread:<9} {said}"


def embedded(waveforms: Waveforms, clips: Sequence[Clip], classes: Sequence[str], embed: Embed) -> Features:
    """One embedding of each whole clip."""
    sounds = (torch.from_numpy(waveforms[clip.key].astype(np.float32) / SCALE)[None] for clip in clips)
    with torch.inference_mode():
        rows = torch.cat([embed(sound) for sound in sounds])
    labels = torch.tensor([classes.index(clip.labels[0]) for clip in clips])
    return Features(rows, tuple(clip.key for clip in clips), labels)


def log_mel_accuracy(waveforms: Waveforms) -> float:
    """The linear probe on log-mel means and deviations, its rate chosen on validation."""
    cut = splits.split(waveforms.corpus)
    train, valid, test = (
        embedded(waveforms, part, cut.classes, held_out.log_mel_statistics) for part in (cut.train, cut.valid, cut.test)
    )

    def reached(linear: probe.Probe, part: Features) -> float:
        return scores.score(part.labels, linear.logits(part.embeddings), cut.classes).accuracy

    probes = [probe.fit(train, valid, classes=cut.classes, lr=rate) for rate in PROBE_LRS]
    return reached(max(probes, key=lambda linear: reached(linear, valid)), test)


def by_speaker(waveforms: Waveforms, embed: Embed) -> str:
    """Accuracy and cross-entropy of a logistic regression, leaving out one speaker after another of those who train or
    validate: what choices are made on.
    """
    cut = splits.split(waveforms.corpus)
    clips = [*cut.train, *cut.valid]
    features = embedded(waveforms, clips, cut.classes, embed)
    rows, labels, speakers = features.embeddings.numpy(), features.labels.numpy(), [clip.group for clip in clips]
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=1000))
    told = cross_val_predict(linear, rows, labels, groups=speakers, cv=LeaveOneGroupOut(), method="predict_proba")
    return f"training speakers {(told.argmax(axis=1) == labels).mean():.3f}, {log_loss(labels, told):.3f}"


def test_frozen_features_of_real_emotions(emodb: Waveforms, tmp_path: Path) -> None:
    heading.show("EmoDB, frozen features and a linear probe: test accuracy of 231 clips; by training speaker")
    bands = log_mel_accuracy(emodb)
    print(line("log-mel means and deviations", [bands], by_speaker(emodb, held_out.log_mel_statistics)))
    for name in NAMES:
        reached = {name: frozen_accuracy(emodb, name)}
        print(line(name, [reached[name]], by_speaker(emodb, encoders.load(name))), flush=True)
        for start in ("random", "filters"):
            folder = tmp_path / f"{name}-{start}"
            pretraining.untrained(pretraining.Setting(name, start=start)).save(folder)
            reached[start] = frozen_accuracy(emodb, str(folder))
            print(line(f"{name}, untrained, {start}", [reached[start]]), flush=True)
        assert reached[name] > max(bands, reached["random"], reached["filters"])
        assert reached[name] >= 0.60
    for other in OTHERS:
        print(line(other, [frozen_accuracy(emodb, other)], by_speaker(emodb, encoders.load(other))), flush=True)


@pytest.mark.parametrize("left_out", ABLATIONS)
def test_parts_of_the_pre_training(left_out: str, emodb: Waveforms, tmp_path: Path) -> None:
    heading.show(f"Pre-training wav2vec2-tiny, {left_out}, at the cost of {ABLATION_STEPS} steps of all of it; EmoDB")
    setting = pretraining.Setting("wav2vec2-tiny", **ABLATIONS[left_out])
    # A part of the loss costs next to nothing, so that leaving it out buys no steps.
    steps = round(ABLATION_STEPS / dearer(setting)) if setting.shape else ABLATION_STEPS
    encoder = pretraining.pretrain(replace(setting, steps=steps), tmp_path / "out")
    print(f"{left_out:<34} {by_speaker(emodb, encoder)} ({steps} steps)")


def dearer(setting: pretraining.Setting) -> float:
    """The processor's time of a step against one of the usual setting: in turns, on views that are made already."""
    runs = [pretraining.Run(setting), pretraining.Run(pretraining.Setting(setting.name))]
    for step in range(TIMED_STEPS):
        views.at(setting.seed, step)
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_STEPS):
        for run, spent in zip(runs, seconds, strict=True):
            started = time.process_time()
            run.advance()
            spent.append(time.process_time() - started)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


@pytest.mark.parametrize("name", NAMES)
def test_tuning_on_real_emotions(name: str, emodb: Waveforms) -> None:
    heading.show(f"EmoDB, {name}: test accuracy, mean ± deviation over {SEEDS} seeds, {EPOCHS} epochs")
    for way in ("frozen", *TUNED):
        reached, rates = accuracies(emodb, name, way, SEEDS)
        print(line(way, reached, rates), flush=True)
        assert min(reached) > 2 / 7  # twice chance: it is no broken run


def few(waveforms: Waveforms, clips: int, seed: int) -> Waveforms:
    """The corpus with that many random training clips of each class; validation and test as they are."""
    draw = np.random.default_rng(seed)
    cut = splits.split(waveforms.corpus)
    of_class = [[clip for clip in cut.train if clip.labels[0] == name] for name in cut.classes]
    kept = {of[number].key for of in of_class for number in draw.permutation(len(of))[:clips]}
    kept |= {clip.key for clip in (*cut.valid, *cut.test)}
    corpus = replace(waveforms.corpus, clips=tuple(clip for clip in waveforms.corpus.clips if clip.key in kept))
    return replace(waveforms, corpus=corpus)


def test_few_clips_of_real_emotions(emodb: Waveforms) -> None:
    heading.show(f"EmoDB, few clips per class, wav2vec2-tiny: test accuracy over {DRAWS} draws, {EPOCHS} epochs")
    for clips, way in product(FEW, ("frozen", *TUNED)):
        reached, rates = across([few(emodb, clips, seed) for seed in range(DRAWS)], "wav2vec2-tiny", way)
        print(line(f"{clips:2d} clips per class, {way}", reached, rates), flush=True)
        assert statistics.fmean(reached) > 1.5 / 7


def generated_speakers(folder: Path, classes: int, seed: int) -> Waveforms:
    """A folder of clips of 1 s per speaker, who says anything in any manner, prepared; splits given by a manifest."""
    rng = np.random.default_rng((seed, classes))
    spoken = speech.Language.drawn(rng)
    rows = ["path,label,split"]
    folder.mkdir(parents=True)
    for number in range(classes):
        voice = speech.Voice.drawn(rng)
        for take in range(SPOKEN):
            said = speech.utter(spoken, voice, speech.Manner.drawn(rng), CHUNK, rng).sound
            heard = said + 0.01 * rng.standard_normal(len(said))
            soundfile.write(folder / f"{number}-{take}.wav", 0.5 * heard / np.abs(heard).max(), audio.SAMPLE_RATE)
            part = "train" if take < HEARD else "valid" if take < HEARD + 1 else "test"
            rows.append(f"{number}-{take}.wav,speaker-{number:03d},{part}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return audio.prepare(corpora.load(str(folder / "clips.csv"), folder), folder / "prepared", workers=1)


def test_many_speakers(tmp_path: Path) -> None:
    heading.show(
        f"Generated speakers, {HEARD} clips of {CHUNK:g} s each, any manner, wav2vec2-tiny, {MANY_EPOCHS} epochs"
    )
    for classes, count in MANY.items():
        sets = [generated_speakers(tmp_path / f"{classes}-{seed}", classes, seed) for seed in range(count)]
        for way in ("frozen", *TUNED):
            reached, rates = across(sets, "wav2vec2-tiny", way, epochs=MANY_EPOCHS)
            print(line(f"{classes:3d} speakers, {way} ({count} sets)", reached, rates), flush=True)
            assert statistics.fmean(reached) > 2 / classes
