"""The recipe: what shares a stage, what is refused, and the whole method in one process."""

from pathlib import Path

import makers
import pytest
import torch

from audioconfit import audio, corpora, recipe
from audioconfit.audio import Waveforms
from audioconfit.recipe import Recipe


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory: pytest.TempPathFactory) -> Waveforms:
    folder = tmp_path_factory.mktemp("recipe")
    return audio.prepare(corpora.load(str(makers.tones(folder / "tones")), folder), folder / "prepared")


def tones(waveforms: Waveforms, **changes: object) -> Recipe:
    fields = {"dataset": "tones", "fingerprint": waveforms.fingerprint, "backbone": "wav2vec2-random"}
    fields |= {"lr": 3e-3, "epochs": 3, "batch_size": 8, "chunk_seconds": 0.25, "warmup_steps": 2}
    return Recipe.model_validate(fields | changes)


def test_recipes_that_differ_in_the_probe_share_stage_one() -> None:
    one, other = makers.recipe(probe_lr=1e-3), makers.recipe(probe_lr=1e-2)
    assert one.stage == other.stage
    assert one.signature != other.signature


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"chunk_seconds": 9.0}, {"seed": 1}, {"fold": 1}, {"weights": "x"}, {"version": 9}]
)
def test_all_else_is_another_stage(change: dict[str, object]) -> None:
    assert makers.recipe().stage != makers.recipe(**change).stage


def test_a_frozen_backbone_is_one_stage_whatever_training_would_read() -> None:
    assert makers.recipe(method="frozen", batch_size=8, lr=1.0).stage == makers.recipe(method="frozen").stage


@pytest.mark.parametrize("method", ["pairtune", "finetune"])
def test_training_learns_what_the_frozen_backbone_does_not(waveforms: Waveforms, method: str) -> None:
    # Three pitches an octave apart: chance is 1/3.
    result = recipe.run(tones(waveforms, method=method, epochs=10), waveforms)
    assert result is not None
    assert result.test is not None
    assert result.test.accuracy >= 0.8
    assert recipe.metrics(result)["test_score"] == result.test.accuracy


def test_equal_recipes_give_equal_results_bit_for_bit(waveforms: Waveforms) -> None:
    stages = [recipe.embed(tones(waveforms), waveforms) for _ in range(2)]
    assert stages[0] is not None
    assert stages[1] is not None
    assert torch.equal(stages[0].train.embeddings, stages[1].train.embeddings)
    assert stages[0].curve == stages[1].curve


def test_an_interrupted_stage_goes_on_as_if_nothing_had_happened(waveforms: Waveforms, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stage.pt"
    whole = recipe.embed(tones(waveforms), waveforms)
    assert recipe.embed(tones(waveforms), waveforms, checkpoint=checkpoint, report=lambda epoch, _: epoch < 2) is None
    resumed = recipe.embed(tones(waveforms), waveforms, checkpoint=checkpoint)
    assert whole is not None
    assert resumed is not None
    assert torch.equal(whole.train.embeddings, resumed.train.embeddings)
    assert whole.curve == resumed.curve


def test_a_recipe_for_another_content_is_refused(waveforms: Waveforms) -> None:
    with pytest.raises(ValueError, match="have changed"):
        recipe.embed(tones(waveforms, fingerprint="other"), waveforms)


def test_the_cost_is_the_audio_that_training_reads(waveforms: Waveforms) -> None:
    clips = len(recipe.split_of(tones(waveforms), waveforms).train)
    steps = -(-clips // 8)
    assert recipe.audio_seconds(tones(waveforms), waveforms) == 3 * steps * 8 * 0.25
    assert recipe.audio_seconds(tones(waveforms, method="frozen"), waveforms) == 0
