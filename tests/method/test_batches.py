"""Batches: who is drawn, from where in the clip, and the same on any number of ranks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audioconfit.audio import SCALE
from audioconfit.batches import Batches
from audioconfit.corpora import Clip

Corpus = tuple[dict[str, np.ndarray], list[Clip], tuple[str, ...]]


def corpus(clips_per_class: dict[str, int], seconds: float = 2.0) -> Corpus:
    """Clips whose sample i holds i: a chunk shows where it was cut."""
    waveforms, clips = {}, []
    for label, count in clips_per_class.items():
        for number in range(count):
            key = f"{label}{number}.wav"
            waveforms[key] = (np.arange(round(seconds * 16_000)) % 32_000 + 1).astype(np.int16)
            clips.append(Clip(key=key, path=Path(key), labels=(label,)))
    return waveforms, clips, tuple(clips_per_class)


def drawn(corpus: Corpus, **settings: Any) -> Batches:
    waveforms, clips, classes = corpus
    return Batches(waveforms, clips, classes, **{"batch_size": 8, "chunk_seconds": 0.1, "seed": 0} | settings)


def test_an_epoch_visits_as_many_chunks_as_there_are_clips() -> None:
    batches = drawn(corpus({"a": 10, "b": 7}))
    assert len(batches) == 3  # 17 clips, 8 a batch
    assert len(list(batches.epoch(1))) == 3


def test_rows_are_shared_out_evenly_over_the_classes() -> None:
    batches = drawn(corpus({"a": 50, "b": 3, "c": 9}))
    for batch in batches.epoch(1):
        assert sorted(Counter(batch.labels.tolist()).values()) == [2, 3, 3]


def test_with_more_classes_than_fit_each_drawn_class_has_two_rows() -> None:
    batches = drawn(corpus({str(number): 4 for number in range(40)}))
    for batch in batches.epoch(1):
        assert set(Counter(batch.labels.tolist()).values()) == {2}


@pytest.mark.parametrize(("batch_size", "classes"), [(4, 7), (5, 7), (9, 2), (32, 7), (33, 630)])
def test_every_anchor_has_a_positive_and_every_batch_its_size(batch_size: int, classes: int) -> None:
    batches = drawn(corpus({str(number): 3 for number in range(classes)}, seconds=0.2), batch_size=batch_size)
    for batch in batches.epoch(1):
        assert len(batch) == batch_size
        assert min(Counter(batch.labels.tolist()).values()) >= 2


def test_a_class_with_one_clip_gives_several_chunks_of_it() -> None:
    batches = drawn(corpus({"a": 1, "b": 20}))
    chunks = next(batches.epoch(1))
    of_a = chunks.waveforms[chunks.labels == 0]
    assert len(of_a) == 4
    assert len(of_a[:, 0].unique()) > 1  # cut at different places


def test_no_clip_comes_twice_before_all_clips_of_its_class_came() -> None:
    waveforms, clips, classes = corpus({"a": 8, "b": 8})
    for number, clip in enumerate(clips):
        waveforms[clip.key] = np.full(1600, number + 1, dtype=np.int16)  # a clip shows by its value
    batches = drawn((waveforms, clips, classes))
    seen = torch.cat([batch.waveforms[:, 0] for batch in batches.epoch(1)])
    assert len(seen.unique()) == 16


def test_two_views_are_two_chunks_of_the_same_clip() -> None:
    waveforms, clips, classes = corpus({"a": 20, "b": 20, "c": 20, "d": 20})
    for number, clip in enumerate(clips):
        waveforms[clip.key] = np.full(1600, number + 1, dtype=np.int16)
    batch = next(drawn((waveforms, clips, classes), views=2, chunk_seconds=0.05).epoch(1))
    clips_seen = Counter(batch.waveforms[:, 0].tolist())
    assert len(batch) == 8
    assert set(clips_seen.values()) == {2}
    assert sorted(Counter(batch.labels.tolist()).values()) == [2, 2, 2, 2]  # a pair already, so all classes fit


def test_chunks_start_anywhere_in_the_clip() -> None:
    batches = drawn(corpus({"a": 200, "b": 200}, seconds=0.2), batch_size=400)
    first = next(batches.epoch(1)).waveforms[:, 0] * SCALE - 1
    assert first.min() < 50
    assert first.max() > 1550
    assert first.max() <= 1600  # 0.2 s less the chunk of 0.1 s


def test_samples_come_back_as_they_were() -> None:
    batch = next(drawn(corpus({"a": 2, "b": 2}, seconds=0.1)).epoch(1))
    assert batch.lengths is None
    torch.testing.assert_close(batch.waveforms[0] * SCALE, torch.arange(1.0, 1601.0))


def test_a_clip_shorter_than_the_chunk_is_whole_and_padded_with_zeros() -> None:
    waveforms, clips, classes = corpus({"a": 2, "b": 2}, seconds=0.3)
    for clip in clips[:2]:
        waveforms[clip.key] = waveforms[clip.key][:1000]
    batch = next(drawn((waveforms, clips, classes)).epoch(1))
    assert batch.lengths is not None
    for row, length, label in zip(batch.waveforms, batch.lengths, batch.labels, strict=True):
        assert length == (1000 if label == 0 else 1600)
        assert (row[:length] > 0).all()
        assert (row[length:] == 0).all()


def test_clips_of_one_length_below_the_chunk_need_no_padding() -> None:
    batch = next(drawn(corpus({"a": 4, "b": 4}, seconds=0.5), chunk_seconds=3.0).epoch(1))
    assert batch.lengths is None
    assert batch.waveforms.shape == (8, 8000)


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    first = [batch.waveforms for batch in drawn(corpus({"a": 9, "b": 9})).epoch(3)]
    again = [batch.waveforms for batch in drawn(corpus({"a": 9, "b": 9})).epoch(3)]
    other = [batch.waveforms for batch in drawn(corpus({"a": 9, "b": 9}), seed=1).epoch(3)]
    later = [batch.waveforms for batch in drawn(corpus({"a": 9, "b": 9})).epoch(4)]
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    assert not all(map(torch.equal, first, later))


def test_an_epoch_goes_on_from_the_step_it_was_left_at() -> None:
    batches = drawn(corpus({"a": 20, "b": 20}))
    whole = [batch.waveforms for batch in batches.epoch(1)]
    rest = [batch.waveforms for batch in batches.epoch(1, start=2)]
    assert len(rest) == 3
    assert all(map(torch.equal, whole[2:], rest))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_rows_of_one_batch(world: int) -> None:
    clips = corpus({"a": 9, "b": 9})
    alone = next(drawn(clips, batch_size=10).epoch(1))
    parts = [next(drawn(clips, batch_size=10, rank=rank, world=world).epoch(1)) for rank in range(world)]
    assert torch.equal(torch.cat([part.waveforms for part in parts]), alone.waveforms)
    assert torch.equal(torch.cat([part.labels for part in parts]), alone.labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_several_labels_are_a_row_of_zeros_and_ones() -> None:
    waveforms, clips, classes = corpus({"a": 4, "b": 4})
    clips = [replace(clip, labels=("a", "b")) if "0" in clip.key else clip for clip in clips]
    batch = next(drawn((waveforms, clips, classes), multi_label=True).epoch(1))
    assert batch.labels.shape == (8, 2)
    assert (batch.labels.sum(0) >= 4).all()
    assert set(map(tuple, batch.labels.tolist())) == {(1, 0), (0, 1), (1, 1)}


def test_the_heaviest_batch_is_as_large_as_any() -> None:
    batches = drawn(corpus({"a": 4, "b": 4}), batch_size=10, world=3)
    assert batches.heaviest().waveforms.shape == (4, 1600)
    assert batches.heaviest().lengths is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3}, "A batch of 3 cannot hold two classes with a pair each; ask for 4 or more"),
        ({"batch_size": 5, "views": 2}, "A batch of 5 cannot hold 2 views of every clip"),
        ({"batch_size": 4, "world": 5}, "A batch of 4 leaves some of 5 workers without a row"),
        ({"chunk_seconds": 0}, "A chunk must be longer than 0 s, not 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(corpus({"a": 4, "b": 4}), **settings)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="Training needs clips of two classes or more"):
        drawn(corpus({"a": 4, "b": 0}))


def test_a_label_outside_the_classes_is_refused() -> None:
    waveforms, clips, _ = corpus({"a": 2, "b": 2})
    with pytest.raises(ValueError, match=r"b0.wav is labelled 'b', which is none of a"):
        drawn((waveforms, clips, ("a",)))


def test_augmented_chunks_are_the_same_again_and_not_the_plain_ones() -> None:
    clips = corpus({"a": 9, "b": 9})
    settings = {"augment": ("gain",), "chunk_seconds": 0.5}
    plain, once, again = (list(drawn(clips, **setting).epoch(2)) for setting in ({}, settings, settings))
    assert all(torch.equal(one.waveforms, other.waveforms) for one, other in zip(once, again, strict=True))
    assert not torch.equal(once[0].waveforms, plain[0].waveforms)
    assert torch.equal(next(drawn(clips, **settings).epoch(2, start=1)).waveforms, once[1].waveforms)


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown augmentation 'echo'"):
        drawn(corpus({"a": 4, "b": 4}), augment=("echo",))
