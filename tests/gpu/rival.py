"""Hugging Face's Trainer as its users run it: Wav2Vec2ForSequenceClassification, AdamW, on the same clips.

SpecAugment and LayerDrop are off, as they are with us, so that both do the same work.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import material
import soundfile
import torch
import transformers
from torch.utils.data import Dataset

RATE = 16_000
WARM = 5  # steps; they start the workers


class Recordings(Dataset):
    """WAV files that each access decodes and normalises, or the same as tensors made beforehand."""

    def __init__(self, files: list[Path], labels: list[int], samples: int, *, cached: bool) -> None:
        self.files, self.labels, self.samples = files, labels, samples
        self.extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
        self.cached = [self.decoded(number) for number in range(len(files))] if cached else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.decoded(number) if self.cached is None else self.cached[number]

    def decoded(self, number: int) -> dict[str, Any]:
        audio, rate = soundfile.read(self.files[number], dtype="float32")
        values = self.extractor(audio[: self.samples], sampling_rate=rate, return_tensors="pt").input_values[0]
        return {"input_values": values, "labels": self.labels[number]}


class Clock(transformers.TrainerCallback):
    """Times the steps behind the first few, the GPU's work included."""

    def __init__(self, steps: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.last, self.now, self.began, self.seconds = steps, now, 0.0, float("nan")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = min(WARM, self.last - 1)
        if state.global_step in (first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if state.global_step == first:
                self.began = self.now()
            else:
                self.seconds = (self.now() - self.began) / (self.last - first)


def step_seconds(
    folder: Path, *, rows: int, seconds: float, steps: int, bf16: bool, workers: int, shape: dict[str, Any], cpu: bool
) -> Iterator[tuple[str, float]]:
    """Seconds of a step from cached tensors, then with decoding in workers."""
    files, labels, classes = written(folder, rows=rows, seconds=seconds, steps=steps)
    kinds = (("cached tensors", True, 0), (f"decoding in {workers} workers", False, workers))
    try:
        for kind, cached, parallel in kinds:
            recordings = Recordings(files, labels, round(seconds * RATE), cached=cached)
            clock = Clock(2 * steps)
            train(recordings, classes, rows, clock, bf16, parallel, shape, cpu)
            yield kind, clock.seconds
    finally:
        shutil.rmtree(folder)


def written(folder: Path, *, rows: int, seconds: float, steps: int) -> tuple[list[Path], list[int], int]:
    """WAV files of so many clips as `steps` batches take, their labels, and how many classes there are."""
    waveforms, clips, names = material.clips(
        classes=4, each=max(2, rows * steps // 4), seconds=(1.05 * seconds, 1.05 * seconds)
    )
    files = []
    for clip in clips:
        files.append(folder / clip.path)
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(files[-1], waveforms[clip.key], RATE)
    labels = [names.index(clip.labels[0]) for clip in clips]
    return files, labels, len(names)


def classifier(classes: int, shape: dict[str, Any]) -> transformers.PreTrainedModel:
    return transformers.Wav2Vec2ForSequenceClassification(
        transformers.Wav2Vec2Config(num_labels=classes, layerdrop=0.0, apply_spec_augment=False, **shape)  # type: ignore[call-arg]
    )


def train(
    recordings: Recordings, classes: int, rows: int, clock: Clock, bf16: bool, workers: int, shape: dict, cpu: bool
) -> None:
    """As many steps as the clock takes the time of."""
    with tempfile.TemporaryDirectory() as folder:
        transformers.Trainer(
            model=classifier(classes, shape),
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=rows,
                max_steps=clock.last,
                learning_rate=1e-5,
                bf16=bf16,
                dataloader_num_workers=workers,
                dataloader_persistent_workers=workers > 0,
                dataloader_drop_last=True,
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=cpu,
            ),
            train_dataset=recordings,
            callbacks=[clock],
        ).train()
