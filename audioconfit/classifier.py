"""The classifier: an encoder and its probe, ready to name recordings. What a sweep hands over and a server loads.

Its folder is a checkpoint of transformers (loadable without this package), a model card, and the two files that keep
what transformers has no place for: the chunks of long recordings and the thresholds of label sets.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from jaxtyping import Float, Int16
from torch import Tensor

from audioconfit import audio, encoders, features, files
from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders import Encoder, sequence_classifier
from audioconfit.errors import InputError
from audioconfit.handover import card
from audioconfit.probe import Probe

DESCRIPTION, PROBE = "classifier.json", "probe.safetensors"
GROUP_SECONDS = 256.0  # of audio decoded before it is embedded; bounds the memory
GROUP_RECORDINGS = 64

Samples = Int16[np.ndarray, "..."]  # at 16 kHz
Recording = str | Path | bytes  # a file's path, or a recording's bytes


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of a recording, or of a stretch of it."""

    recording: str  # its path; of bytes the place among the recordings, from 0
    labels: tuple[str, ...] = ()  # one; of a classifier of label sets none to all, by their thresholds
    probabilities: dict[str, float] = field(default_factory=dict)  # of every class
    start: float = 0.0  # seconds
    end: float = 0.0
    error: str | None = None  # why there is no prediction

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes, the best first."""
        return sorted(self.probabilities.items(), key=lambda named: -named[1])[:count]


@dataclass(frozen=True)
class Classifier:
    """Recording -> class probabilities, the same way as in training: the recipe's chunks, valid frames pooled."""

    encoder: Encoder
    probe: Probe
    chunk_seconds: float
    classes: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)  # `results.summary` of the run it is of, where that is known

    @property
    def scores(self) -> dict[str, float]:
        """What it reached when it was made: valid_score, test_accuracy, ... Empty where that is not known."""
        return dict(self.about.get("metrics", {}))

    def _repr_markdown_(self) -> str:
        """What a notebook shows: scores and confusion."""
        return card.shown(self.description())

    def probabilities(self, recording: Path | bytes) -> Float[Tensor, "classes"]:
        """Of one recording in any format that preparing reads.

        Raises:
            InputError: it is no audio, or shorter than the encoder's receptive field.
        """
        return self.probe.probabilities(self.embed([recording]))[0]

    def embed(self, recordings: Sequence[Recording], *, device: str = "cpu") -> Float[Tensor, "recordings *layers dim"]:
        """What the probe reads of each recording, chunks averaged.

        Raises:
            InputError: one is no audio, cannot be read, or is shorter than the encoder's receptive field.
        """
        waveforms = []
        for recording in recordings:
            source = recording if isinstance(recording, bytes) else Path(recording)
            try:
                waveforms.append(self._decoded(source))
            except (audio.Unreadable, OSError) as fault:
                name = "The recording" if isinstance(source, bytes) else source.name
                raise InputError(f"{name}: {fault}") from None
        return self.embed_samples(waveforms, device)

    def predict(
        self, recordings: Recording | Sequence[Recording], *, segment_seconds: float | None = None, device: str = "cpu"
    ) -> list[Prediction]:
        """A prediction per recording, in their order; with `segment_seconds` one per stretch of that length.

        A recording that cannot be read has a prediction with `error` and does not stop the others.
        """
        several = [recordings] if isinstance(recordings, str | Path | bytes) else recordings
        return list(self.each(several, segment_seconds=segment_seconds, device=device))

    def each(
        self,
        recordings: Iterable[Recording],
        *,
        segment_seconds: float | None = None,
        longest_seconds: float | None = None,
        device: str = "cpu",
    ) -> Iterator[Prediction]:
        """`predict`, as predictions are made: recordings are decoded and embedded some at a time. One that is longer
        than `longest_seconds` has an error.

        Raises:
            InputError: segments shorter than the encoder's receptive field, or chunks of none.
        """
        if segment_seconds is not None and round(segment_seconds * SAMPLE_RATE) < self.encoder.receptive_field:
            raise InputError(
                f"Segments of {segment_seconds:g} s are too short for {self.encoder.name}: choose "
                f"{self.encoder.receptive_field / SAMPLE_RATE:g} s or more."
            )
        numbered = iter(enumerate(recordings))
        while group := self._group(numbered, longest_seconds):
            yield from self._named(group, segment_seconds, device)

    def _group(
        self, numbered: Iterator[tuple[int, Recording]], longest_seconds: float | None
    ) -> list[tuple[str, Samples | str]]:
        """The next recordings by their names, decoded, or why they cannot be."""
        group: list[tuple[str, Samples | str]] = []
        seconds = 0.0
        for number, recording in islice(numbered, GROUP_RECORDINGS):
            name = str(number) if isinstance(recording, bytes) else str(recording)
            try:
                source = recording if isinstance(recording, bytes) else Path(recording)
                samples = self._decoded(source, longest_seconds)
                group.append((name, samples))
                seconds += len(samples) / SAMPLE_RATE
            except (audio.Unreadable, OSError) as fault:
                group.append((name, str(fault)))
            if seconds >= GROUP_SECONDS:
                break
        return group

    def _decoded(self, recording: Path | bytes, longest_seconds: float | None = None) -> Samples:
        """At 16 kHz. Unreadable also where the encoder has no frame for it."""
        samples = audio.to_int16(recording, longest_seconds=longest_seconds)
        shortest = self.encoder.receptive_field
        if len(samples) < shortest:
            raise audio.Unreadable(f"too short: {len(samples)} samples at 16 kHz of the {shortest} that a frame takes")
        return samples

    def _named(
        self,
        group: Sequence[tuple[str, Samples | str]],
        segment_seconds: float | None,
        device: str,
    ) -> Iterator[Prediction]:
        stretches = [
            [] if isinstance(samples, str) else self._stretches(samples, segment_seconds) for _, samples in group
        ]
        waveforms = [
            samples[start:end]
            for (_, samples), cuts in zip(group, stretches, strict=True)
            for start, end in cuts
            if not isinstance(samples, str)
        ]
        embeddings = self.embed_samples(waveforms, device)
        rows = iter(zip(self.probe.predict(embeddings), self.probe.probabilities(embeddings).tolist(), strict=True))
        for (name, samples), cuts in zip(group, stretches, strict=True):
            if isinstance(samples, str):
                yield Prediction(name, error=samples)
            for start, end in cuts:
                labels, probabilities = next(rows)
                named = dict(zip(self.classes, probabilities, strict=True))
                yield Prediction(name, labels, named, start / SAMPLE_RATE, end / SAMPLE_RATE)

    def _stretches(self, samples: Samples, segment_seconds: float | None) -> list[tuple[int, int]]:
        """Where each begins and ends; a last one without a frame belongs to the one before it."""
        length = len(samples) if segment_seconds is None else round(segment_seconds * SAMPLE_RATE)
        starts = range(0, len(samples) - self.encoder.receptive_field + 1, length)
        return list(zip(starts, [*starts[1:], len(samples)], strict=True))

    def embed_samples(self, waveforms: Sequence[Samples], device: str) -> Float[Tensor, "rows *layers dim"]:
        """What the probe reads of decoded recordings."""
        keyed = {str(number): samples for number, samples in enumerate(waveforms)}
        return features.embed(
            self.encoder,
            keyed,
            tuple(keyed),
            chunk_seconds=self.chunk_seconds,
            every_layer=self.probe.layers is not None,
            device=device,
        )

    def save(self, folder: Path | str) -> None:
        """The checkpoint, its card and what else `load` needs, whole or not at all; an earlier classifier is replaced.

        Raises:
            InputError: `folder` is a file, holds something else, or cannot be written.
        """
        folder = Path(folder).absolute()
        check_free(folder)
        try:
            with files.whole(folder) as temporary:
                self._write(temporary, folder.name)
                if folder.is_dir():
                    shutil.rmtree(folder)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error}); name another folder.") from error

    def _write(self, folder: Path, name: str) -> None:
        use = None
        if sequence_classifier.is_known(self.encoder, self.probe.layers):
            weight, bias = self.probe.folded()
            several = self.probe.thresholds is not None
            sequence_classifier.save(
                self.encoder,
                weight,
                bias,
                folder,
                classes=self.classes,
                multi_label=several,
                layers=self.probe.layers,
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.encoder.save(folder)
            use = [
                "`audioconfit.load` and `audioconfit predict` read this folder; transformers has no such classifier."
            ]
        self.probe.save(folder / PROBE)
        files.write(folder / DESCRIPTION, json.dumps(self.description(), indent=2))
        files.write(folder / "README.md", card.written(self.description(), name=name, use=use, library="audioconfit"))

    def description(self) -> dict[str, Any]:
        """What classifier.json holds: chunk, classes, thresholds, and the run it is of."""
        thresholds = self.probe.thresholds
        return {
            "chunk_seconds": self.chunk_seconds,
            "classes": list(self.classes),
            "sample_rate": SAMPLE_RATE,
            "encoder": ".",
            "backbone": self.about.get("recipe", {}).get("backbone", self.encoder.name),
            "architecture": self.encoder.model.config.model_type,
            "thresholds": None if thresholds is None else thresholds.tolist(),
            "about": self.about,
        }

    @classmethod
    def load(cls, folder: Path | str) -> "Classifier":
        """What `save` wrote, in eval mode on the CPU.

        Raises:
            InputError: there is no classifier in `folder`, or it is damaged.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            # Folders of version 0.1 keep the encoder in one of its own.
            encoder = encoders.load(str(folder / description.get("encoder", "encoder"))).eval()
            probe = Probe.load(folder / PROBE)
            classes, chunk = tuple(description["classes"]), float(description["chunk_seconds"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder} holds no classifier that can be loaded ({type(error).__name__}: {error}); give a folder "
                f"that `audioconfit export` or `model.save` wrote."
            ) from error
        return cls(encoder, probe, chunk, classes, description.get("about", {}))


def check_free(folder: Path) -> None:
    """InputError where a classifier may not be written: over a file, or over a folder of other things."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to write the model to.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise InputError(f"{folder} holds other things than a model; name a new folder.")
