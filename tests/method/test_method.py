"""The recipe: what shares a stage, what is refused, and the whole method in one process."""

from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
import soundfile
import torch

from audioconfit import audio, corpora, encoders, features, method, results, training
from audioconfit.audio import Waveforms
from audioconfit.features import Features
from audioconfit.recipe import Recipe


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory: pytest.TempPathFactory) -> Waveforms:
    folder = tmp_path_factory.mktemp("recipe")
    return audio.prepare(corpora.load(str(makers.tones(folder / "tones")), folder), folder / "prepared")


def tones(waveforms: Waveforms, **changes: Any) -> Recipe:
    fields = {"dataset": "tones", "fingerprint": waveforms.fingerprint, "backbone": "wav2vec2-random"}
    fields |= {"lr": 3e-3, "epochs": 3, "batch_size": 8, "chunk_seconds": 0.25, "warmup_steps": 2}
    return Recipe.model_validate(fields | changes)


def test_recipes_that_differ_in_the_probe_share_stage_one() -> None:
    one, other = makers.recipe(probe_lr=1e-3), makers.recipe(probe_lr=1e-2)
    assert one.stage_key == other.stage_key
    assert one.signature != other.signature


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"chunk_seconds": 9.0}, {"seed": 1}, {"fold": 1}, {"weights": "x"}, {"version": 9}]
)
def test_all_else_is_another_stage(change: dict[str, Any]) -> None:
    assert makers.recipe().stage_key != makers.recipe(**change).stage_key


def test_fields_that_came_later_leave_stored_recipes_as_they_were() -> None:
    # The hash of this recipe in a sweep that was stored before inner folds and metrics were there.
    assert makers.recipe().signature == "f195b6973fae1d4e"
    assert makers.recipe(inner_fold=1).stage_key != makers.recipe(inner_fold=2).stage_key != makers.recipe().stage_key
    frozen = makers.recipe(method="frozen")
    assert makers.recipe(method="frozen", inner_fold=1).stage_key == frozen.stage_key
    assert makers.recipe(method="frozen", inner_fold=1).signature != frozen.signature


def test_a_frozen_backbone_is_one_stage_whatever_training_would_read() -> None:
    assert makers.recipe(method="frozen", batch_size=8, lr=1.0).stage_key == makers.recipe(method="frozen").stage_key


@pytest.mark.parametrize("tuned", ["pairtune", "finetune"])
def test_training_learns_what_the_frozen_backbone_does_not(waveforms: Waveforms, tuned: str) -> None:
    # Three pitches an octave apart: chance is 1/3.
    result = method.run(tones(waveforms, method=tuned, epochs=10), waveforms)
    assert result is not None
    assert result.test is not None
    assert result.test.accuracy >= 0.8
    assert results.metrics(result)["test_score"] == result.test.accuracy


def test_equal_recipes_give_equal_results_bit_for_bit(waveforms: Waveforms) -> None:
    stages = [method.tune(tones(waveforms), waveforms) for _ in range(2)]
    assert stages[0] is not None
    assert stages[1] is not None
    assert torch.equal(stages[0].train.embeddings, stages[1].train.embeddings)
    assert stages[0].curve == stages[1].curve


def test_an_interrupted_stage_goes_on_as_if_nothing_had_happened(waveforms: Waveforms, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stage.pt"
    whole = method.tune(tones(waveforms), waveforms)
    assert method.tune(tones(waveforms), waveforms, checkpoint=checkpoint, report=lambda epoch, _: epoch < 2) is None
    resumed = method.tune(tones(waveforms), waveforms, checkpoint=checkpoint)
    assert whole is not None
    assert resumed is not None
    assert torch.equal(whole.train.embeddings, resumed.train.embeddings)
    assert whole.curve == resumed.curve


def test_features_that_take_long_give_signs_of_life(waveforms: Waveforms, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    frozen = tones(waveforms, method="frozen")

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        told.append((epoch, metrics))
        return True

    monkeypatch.setattr(training, "HEARTBEAT_SECONDS", 3600.0)
    method.tune(frozen, waveforms, report=report)
    assert told == []
    monkeypatch.setattr(training, "HEARTBEAT_SECONDS", -1.0)
    method.tune(frozen, waveforms, report=report)
    assert len(told) >= 2  # for train and for valid
    assert told == [(frozen.epochs, {})] * len(told)


def test_finetunes_own_head_is_in_the_curve_beside_the_neighbours(waveforms: Waveforms) -> None:
    stage = method.tune(tones(waveforms, method="finetune", epochs=4), waveforms)
    assert stage is not None
    assert stage.head is not None
    told = [point["finetune_head_valid"] for point in stage.curve]
    assert len(told) == 4
    assert told[-1] == stage.head.score(stage.valid).accuracy  # the clips are shorter than the stretch that is read
    pairtuned = method.tune(tones(waveforms, epochs=1), waveforms)
    assert pairtuned is not None
    assert "finetune_head_valid" not in pairtuned.curve[-1]


def test_the_curve_reads_a_fixed_part_of_a_large_corpus(waveforms: Waveforms, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    extract = features.extract

    def noted(*given: Any, **how: Any) -> Features:
        found = extract(*given, **how)
        read.append(found.keys)
        return found

    monkeypatch.setattr(features, "extract", noted)
    recipe = tones(waveforms, epochs=2, curve_clips=4)
    stages = [method.tune(one, waveforms) for one in (recipe, recipe.model_copy(update={"seed": 1}))]
    assert all(stages)
    split = method.split_of(recipe, waveforms)
    whole = [tuple(clip.key for clip in side) for side in (split.train, split.valid)]
    curve, final = read[:2], read[4:6]
    assert [len(keys) for keys in curve] == [4, min(4, len(split.valid))]
    assert all(set(keys) <= set(side) for keys, side in zip(curve, whole, strict=True))
    assert read == [*curve, *curve, *final] * 2
    assert final == whole
    assert recipe.stage_key != tones(waveforms, epochs=2).stage_key


def test_a_recipe_for_another_content_is_refused(waveforms: Waveforms) -> None:
    with pytest.raises(ValueError, match="have changed"):
        method.tune(tones(waveforms, fingerprint="other"), waveforms)


def test_the_cost_is_the_audio_that_training_reads(waveforms: Waveforms) -> None:
    clips = len(method.split_of(tones(waveforms), waveforms).train)
    steps = -(-clips // 8)
    assert method.audio_seconds(tones(waveforms), waveforms) == 3 * steps * 8 * 0.25
    assert method.audio_seconds(tones(waveforms, method="frozen"), waveforms) == 0


def test_a_clip_shorter_than_a_frame_is_in_no_side_of_that_backbones_split(tmp_path: Path) -> None:
    folder = makers.tones(tmp_path / "tones")
    short = folder / "pitch-0" / "blip.wav"
    soundfile.write(short, 0.3 * np.sin(np.arange(640)), 16_000)  # a first frame takes 400 samples, or 880
    waveforms = audio.prepare(corpora.load(str(folder), tmp_path), tmp_path / "prepared")
    assert method.embeddable("wav2vec2", waveforms) is waveforms
    kept = method.embeddable("wav2vec2-tiny", waveforms)
    assert [(fault.key, fault.reason) for fault in kept.faults] == [
        ("pitch-0/blip.wav", "too short: 0.0400 s of 0.0550 s")
    ]
    assert kept.fingerprint == waveforms.fingerprint
    recipe = Recipe(dataset="tones", fingerprint=waveforms.fingerprint, backbone="wav2vec2-tiny")
    split = method.split_of(recipe, waveforms)
    assert "pitch-0/blip.wav" not in {clip.key for side in (split.train, split.valid, split.test) for clip in side}


@pytest.mark.parametrize("name", ["wav2vec2-tiny", "wavlm-tiny", "hubert-random"])
def test_the_receptive_field_is_known_without_the_weights(name: str) -> None:
    assert encoders.receptive_field(name) == encoders.load(name).receptive_field
