"""The classifier: an encoder and its probe, ready to name a recording. What a sweep hands over and a server loads."""

import json
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from audioconfit import audio, encoders, features
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.probe import Probe


@dataclass(frozen=True)
class Classifier:
    """Recording -> class probabilities, the same way as in training: the recipe's chunks, valid frames pooled."""

    encoder: Encoder
    probe: Probe
    chunk_seconds: float
    classes: tuple[str, ...]

    def probabilities(self, recording: Path) -> Float[Tensor, "classes"]:
        """Of one recording in any format that libsndfile reads.

        Raises:
            ValueError: it is no audio, or shorter than the encoder's receptive field.
        """
        clip = Clip(recording.name, recording, (self.classes[0],))  # the label is not read
        try:
            samples = audio.to_int16(clip)
        except audio.Unreadable as fault:
            raise ValueError(f"{recording.name}: {fault}") from None
        embedded = features.extract(
            self.encoder, {clip.key: samples}, [clip], classes=self.classes, chunk_seconds=self.chunk_seconds
        )
        return self.probe.probabilities(embedded.embeddings)[0]

    def save(self, folder: Path) -> None:
        """Encoder, probe and what else `load` needs, under `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save(folder / "encoder")
        self.probe.save(folder / "probe.safetensors")
        what = {"chunk_seconds": self.chunk_seconds, "classes": self.classes, "sample_rate": audio.SAMPLE_RATE}
        (folder / "classifier.json").write_text(json.dumps(what))

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """What `save` wrote, in eval mode on the CPU."""
        what = json.loads((folder / "classifier.json").read_text())
        encoder = encoders.load(str(folder / "encoder")).eval()
        return cls(encoder, Probe.load(folder / "probe.safetensors"), what["chunk_seconds"], tuple(what["classes"]))
