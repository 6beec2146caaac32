"""Features: one embedding per clip, the same whatever else is extracted, and the chunk policy to the frame."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audioconfit import encoders, features, labels
from audioconfit.audio import SAMPLE_RATE, Waveforms
from audioconfit.corpora import Clip, Corpus
from audioconfit.features import Features

NOWHERE = Path("nowhere.wav")


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    return encoders.load("wavlm-random")


def noise(*lengths: int) -> Waveforms:
    """Clips of those lengths in samples, named by their number, labelled a, b, a, b, ..."""
    samples = np.random.default_rng(0).integers(-(2**14), 2**14, sum(lengths), dtype=np.int16)
    starts = [0, *np.cumsum(lengths)]
    clips = tuple(Clip(str(number), path=NOWHERE, labels=("ab"[number % 2],)) for number in range(len(lengths)))
    offsets = {clip.key: (int(start), length) for clip, start, length in zip(clips, starts, lengths, strict=False)}
    return Waveforms(Corpus("noise", clips), "", (), samples, offsets)


def extract(encoder: encoders.Encoder, waveforms: Waveforms, **options: Any) -> Features:
    options = {"chunk_seconds": 0.5, "classes": waveforms.corpus.classes} | options
    return features.extract(encoder, waveforms, waveforms.corpus.clips, **options)


def frames(encoder: encoders.Encoder, waveforms: Waveforms, key: str, start: int, stop: int) -> torch.Tensor:
    """The sum over the frames of a stretch of a clip, and their number behind it."""
    chunk = torch.from_numpy(waveforms[key][start:stop].astype(np.float32) / 32768)
    with torch.no_grad():
        count = encoder.frame_count(stop - start)
        return torch.cat([encoder(chunk[None])[0] * count, torch.tensor([count])])


def shift(embeddings: torch.Tensor, reference: torch.Tensor) -> float:
    return float(((embeddings - reference).norm(dim=1) / reference.norm(dim=1)).max())


def test_clip_shorter_than_a_chunk_is_embedded_whole(encoder: Any) -> None:
    waveforms = noise(5_000)
    total = frames(encoder, waveforms, "0", 0, 5_000)
    assert shift(extract(encoder, waveforms).embeddings, (total[:-1] / total[-1])[None]) < 2e-6


def test_longer_clip_is_the_mean_over_the_frames_of_its_chunks(encoder: Any) -> None:
    waveforms = noise(8_000 + 8_000 + 3_000)
    total = sum(frames(encoder, waveforms, "0", *piece) for piece in [(0, 8_000), (8_000, 16_000), (16_000, 19_000)])
    assert total[-1] == 23 + 23 + 8
    assert shift(extract(encoder, waveforms).embeddings, (total[:-1] / total[-1])[None]) < 2e-6


def test_last_piece_below_the_receptive_field_is_left_out(encoder: Any) -> None:
    waveforms = noise(8_000 + encoder.receptive_field - 1)
    total = frames(encoder, waveforms, "0", 0, 8_000)
    assert shift(extract(encoder, waveforms).embeddings, (total[:-1] / total[-1])[None]) < 2e-6


@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
def test_embedding_does_not_depend_on_the_other_clips_or_the_batch(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoders.load(name)
    waveforms = noise(690, 5_000, 8_000, 8_001, 21_000, 2_345, 16_000)
    together = extract(encoder, waveforms)
    with monkeypatch.context() as patch:
        patch.setattr(features, "BATCH_SECONDS", 0.01)
        one_by_one = extract(encoder, waveforms)
    assert shift(together.embeddings, one_by_one.embeddings) < 2e-6

    some = waveforms.corpus.clips[4:1:-1]
    others = features.extract(encoder, waveforms, some, classes=("a", "b"), chunk_seconds=0.5)
    assert others.keys == ("4", "3", "2")
    assert shift(others.embeddings, together.embeddings[[4, 3, 2]]) < 2e-6


def test_encoder_is_in_evaluation_mode_for_extraction_only() -> None:
    waveforms = noise(16_000)
    encoder = encoders.load("hubert-random", spec_augment=True)
    expected = extract(encoder, waveforms).embeddings
    encoder.train()
    assert torch.equal(extract(encoder, waveforms).embeddings, expected)
    assert encoder.training


@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.05), ("fp16", 0.01)])  # 8 bits, 11 bits
def test_features_are_float32_without_gradient(encoder: Any, precision: str, apart: float) -> None:
    embeddings = extract(encoder, noise(5_000), precision=precision).embeddings
    assert (embeddings.dtype, embeddings.requires_grad, embeddings.device.type) == (torch.float32, False, "cpu")
    expected = extract(encoder, noise(5_000)).embeddings
    assert not torch.equal(embeddings, expected)
    torch.testing.assert_close(embeddings, expected, rtol=apart, atol=apart)


def test_labels_are_indices_into_the_given_classes(encoder: Any) -> None:
    waveforms = noise(1_000, 1_000, 1_000)
    assert extract(encoder, waveforms, classes=("z", "b", "a")).labels.tolist() == [2, 1, 2]
    with pytest.raises(ValueError, match=r"Labels \['b'\] are not among the 1 classes"):
        extract(encoder, waveforms, classes=("a",))


def test_labels_of_a_multi_label_corpus_are_rows_of_zeros_and_ones() -> None:
    clips = [Clip("0", NOWHERE, ("dog", "rain")), Clip("1", NOWHERE, ()), Clip("2", NOWHERE, ("cat",))]
    rows = labels.tensor(clips, ("cat", "dog", "rain"), multi_label=True)
    assert rows.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert rows.dtype == torch.float32


def test_clip_or_chunk_below_the_receptive_field_is_refused_by_name(encoder: Any) -> None:
    with pytest.raises(ValueError, match="Clip 1 has 689 samples; wavlm-random takes 690"):
        extract(encoder, noise(5_000, 689))
    with pytest.raises(ValueError, match="A chunk of 640 samples is shorter than the 690"):
        extract(encoder, noise(5_000), chunk_seconds=0.04)


def test_the_middle_stands_for_its_clip(encoder: Any) -> None:
    waveforms = noise(3 * SAMPLE_RATE, 5_000)
    middle = waveforms["0"][SAMPLE_RATE : 2 * SAMPLE_RATE]
    alone = features.extract(encoder, {"0": middle}, waveforms.corpus.clips[:1], classes=("a", "b"), chunk_seconds=0.5)
    found = extract(encoder, waveforms, chunk_seconds=0.5, middle_seconds=1.0)
    assert torch.allclose(found.embeddings[0], alone.embeddings[0], atol=1e-6)
    whole = extract(encoder, waveforms, chunk_seconds=0.5)
    assert torch.allclose(found.embeddings[1], whole.embeddings[1], atol=1e-6)  # a short clip is its own middle


def test_the_middle_is_a_chunk_at_least(encoder: Any) -> None:
    waveforms = noise(3 * SAMPLE_RATE)
    pieces = features._cut(encoder, waveforms, list(waveforms.offsets), chunk=2 * SAMPLE_RATE, most=2 * SAMPLE_RATE)
    assert [(piece.start, piece.length) for piece in pieces] == [(SAMPLE_RATE // 2, 2 * SAMPLE_RATE)]


def test_saved_features_come_back(encoder: Any, tmp_path: Path) -> None:
    saved = extract(encoder, noise(1_000, 2_000))
    saved.save(tmp_path / "stage" / "train.safetensors")
    loaded = features.load(tmp_path / "stage" / "train.safetensors")
    assert loaded.keys == saved.keys == ("0", "1")
    assert torch.equal(loaded.embeddings, saved.embeddings)
    assert torch.equal(loaded.labels, saved.labels)
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["train.safetensors"]


def test_batches_hold_their_budget_and_full_chunks_stay_among_themselves(encoder: Any) -> None:
    waveforms = noise(*[4 * SAMPLE_RATE] * 3, 7_000, 6_000, 6_000, 1_000)
    pieces = features._cut(encoder, waveforms, list(waveforms.offsets), chunk=SAMPLE_RATE)
    batches = [[pieces[row].length for row in batch] for batch in features._batches(pieces, budget=5 * SAMPLE_RATE)]
    assert batches == [[SAMPLE_RATE] * 5, [SAMPLE_RATE] * 5, [SAMPLE_RATE] * 2, [7_000, 6_000, 6_000, 1_000]]


def test_embeddings_of_a_diverged_encoder_are_refused() -> None:
    diverged = encoders.load("wav2vec2-random")
    with torch.no_grad():
        next(diverged.model.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="2 of 2 embeddings by wav2vec2-random are no finite numbers"):
        extract(diverged, noise(8_000, 6_000), chunk_seconds=0.5)
