"""Encoders of spectrograms: Whisper's, the Audio Spectrogram Transformer, wav2vec2-BERT.

Each has its own feature extractor, which is computed in torch on the device. Whisper and AST have a fixed length that
theirs fills with silence; frames of that filling count for nothing in the mean, though attention sees them, as it did
where the weights come from. wav2vec2-BERT takes any length, and its attention leaves padding out.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchaudio.compliance import kaldi
from transformers import PreTrainedConfig, PreTrainedModel

from audioconfit.audio import SAMPLE_RATE, SCALE
from audioconfit.encoders.encoder import Count, Encoder
from audioconfit.errors import InputError

HOP = 160  # samples from one column of the spectrogram to the next
KALDI_WINDOW = 400


class SpectrogramEncoder(Encoder):
    """The mean of the hidden states over the frames that lie in the row. `settings`: preprocessor_config.json, where
    there is one.
    """

    made_by: ClassVar[Callable[..., Any]]  # transformers' own extractor

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        *,
        settings: dict[str, Any] | None = None,
        spec_augment: bool = False,
        layer_drop: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # all else that an Encoder prepares is of convolutions over the waveform
        if spec_augment:
            raise InputError(f"{name} has no SpecAugment; leave spec_augment off.")
        self.name, self.model, self.normalise = name, model, True
        self.dim, self.receptive_field = int(model.config.hidden_size), self.first_frame(model.config)
        self.longest = self.most(model.config)
        self.extractor = type(self).made_by(**(settings or {}) | self._shape())
        self._prepare(layer_drop=layer_drop)

    @staticmethod
    @abstractmethod
    def first_frame(config: PreTrainedConfig) -> int:
        """Samples that the first frame takes."""

    @staticmethod
    @abstractmethod
    def most(config: PreTrainedConfig) -> int | None:
        """Samples that fit; None: there is no fixed length."""

    @abstractmethod
    def spectrogram(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch rows columns"]:
        """What the model's own feature extractor gives for each row's valid samples, to 1e-4, in its layout."""

    def _shape(self) -> dict[str, Any]:
        """What the extractor must have as the model has it."""
        return {"num_mel_bins": self.model.config.num_mel_bins}

    def _prepare(self, *, layer_drop: bool) -> None:
        """What else this family wants."""

    def _states(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None, every_layer: bool
    ) -> list[Float[Tensor, "batch places dim"]]:
        return self._run(self._inputs(waveforms, lengths), None, every_layer)

    def _inputs(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None) -> Tensor:
        """The spectrogram, without a gradient towards the waveform and in float32 also under autocast."""
        if lengths is None:
            lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            return self.spectrogram(waveforms, lengths)

    def _fbanks(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"], **how: Any
    ) -> list[Float[Tensor, "time bins"]]:
        """Kaldi's log mel energies of each row, one column every 10 ms."""
        return [
            kaldi.fbank(
                row[:length].float()[None],
                sample_frequency=SAMPLE_RATE,
                num_mel_bins=self.extractor.num_mel_bins,
                **how,
            )
            for row, length in zip(waveforms, lengths.tolist(), strict=True)
        ]

    def _backbone_config(self) -> dict[str, object]:
        return dict(self.model.config.to_dict())

    def _preprocessor_config(self) -> dict[str, object]:
        return dict(self.extractor.to_dict())


class Whisper(SpectrogramEncoder):
    """Whisper's encoder: log mel of 30 s, a frame every 20 ms."""

    made_by = transformers.WhisperFeatureExtractor
    mel_filters: Tensor
    STRIDE = 2  # columns of a frame

    @staticmethod
    def first_frame(config: PreTrainedConfig) -> int:
        """One step."""
        return Whisper.STRIDE * HOP

    @staticmethod
    def most(config: PreTrainedConfig) -> int:
        """30 s of the published ones."""
        return Whisper.STRIDE * HOP * int(config.max_source_positions)

    def spectrogram(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch bins time"]:
        """WhisperFeatureExtractor's: eight powers of ten below each row's loudest, brought near -1 to 1."""
        valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        samples = F.pad(waveforms.masked_fill(~valid, 0), (0, self.most(self.model.config) - waveforms.shape[1]))
        window = torch.hann_window(self.extractor.n_fft, device=samples.device, dtype=samples.dtype)
        spectrum = torch.stft(samples, self.extractor.n_fft, HOP, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        found = (self.mel_filters.to(power.dtype).T @ power).clamp(min=1e-10).log10()
        return (torch.maximum(found, found.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def frame_count(self, samples: Count) -> Count:
        """Steps of 20 ms."""
        return samples // (self.STRIDE * HOP)

    def _shape(self) -> dict[str, Any]:
        return {"feature_size": self.model.config.num_mel_bins}

    def _prepare(self, *, layer_drop: bool) -> None:
        if not layer_drop:
            setattr(self.model, "layerdrop", 0.0)  # noqa: B010
        filters = torch.from_numpy(self.extractor.mel_filters).float()
        self.register_buffer("mel_filters", filters, persistent=False)


class Patches(SpectrogramEncoder):
    """The Audio Spectrogram Transformer: Kaldi's spectrogram of 10.2 s, in patches over time and frequency."""

    made_by = transformers.ASTFeatureExtractor

    @staticmethod
    def first_frame(config: PreTrainedConfig) -> int:
        """The columns of a patch."""
        return KALDI_WINDOW + (config.patch_size - 1) * HOP

    @staticmethod
    def most(config: PreTrainedConfig) -> int:
        """10.2 s of the published ones."""
        return KALDI_WINDOW + (int(config.max_length) - 1) * HOP

    def spectrogram(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch time bins"]:
        """ASTFeatureExtractor's, filled up."""
        columns = int(self.model.config.max_length)
        banks = self._fbanks(waveforms, lengths, window_type="hanning")
        filled = torch.stack([F.pad(bank, (0, 0, 0, columns - len(bank))) for bank in banks])
        if not self.extractor.do_normalize:
            return filled.to(waveforms.dtype)
        return ((filled - self.extractor.mean) / (2 * self.extractor.std)).to(waveforms.dtype)

    def frame_count(self, samples: Count) -> Count:
        """Patches in time."""
        columns = (samples - KALDI_WINDOW) // HOP + 1
        return (columns - self.model.config.patch_size) // self.model.config.time_stride + 1

    def _shape(self) -> dict[str, Any]:
        return super()._shape() | {"max_length": self.model.config.max_length}

    def _counted(self, places: int, lengths: Int[Tensor, "batch"] | None) -> Bool[Tensor, "batch places"]:
        """Two tokens, which do not count, then the patches of each band of frequencies."""
        assert lengths is not None  # the filling never counts
        config = self.model.config
        across = (int(config.max_length) - config.patch_size) // config.time_stride + 1
        column = torch.arange(places - 2, device=lengths.device) % across
        return F.pad(column < self.frame_count(lengths)[:, None], (2, 0))


class Wav2Vec2Bert(SpectrogramEncoder):
    """wav2vec2-BERT 2.0: Kaldi's spectrogram, each band to zero mean and unit variance, a frame of two columns."""

    made_by = transformers.SeamlessM4TFeatureExtractor
    STRIDE = 2

    @staticmethod
    def first_frame(config: PreTrainedConfig) -> int:
        """Two columns."""
        return KALDI_WINDOW + (Wav2Vec2Bert.STRIDE - 1) * HOP

    @staticmethod
    def most(config: PreTrainedConfig) -> None:
        """No limit."""
        return None

    def spectrogram(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch frames bins"]:
        """SeamlessM4TFeatureExtractor's; an odd last column counts for the mean and variance alone, as there."""
        banks = self._fbanks(SCALE * waveforms, lengths)
        scaled = [(bank - bank.mean(0)) * torch.rsqrt(bank.var(0) + 1e-7) for bank in banks]
        frames = [bank[: len(bank) // self.STRIDE * self.STRIDE].unflatten(0, (-1, self.STRIDE)) for bank in scaled]
        rows = [frame.flatten(1) for frame in frames]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(waveforms.dtype)

    def frame_count(self, samples: Count) -> Count:
        """Pairs of columns."""
        return ((samples - KALDI_WINDOW) // HOP + 1) // self.STRIDE

    def _states(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None, every_layer: bool
    ) -> list[Float[Tensor, "batch places dim"]]:
        inputs = self._inputs(waveforms, lengths)
        counted = self._counted(inputs.shape[1], lengths)
        return self._run(inputs, None if counted is None else counted.long(), every_layer)

    def _shape(self) -> dict[str, Any]:
        width = int(self.model.config.feature_projection_input_dim) // self.STRIDE
        return {"num_mel_bins": width, "feature_size": width, "stride": self.STRIDE}

    def _prepare(self, *, layer_drop: bool) -> None:
        config = self.model.config
        self._layer_drop_of_backbone = config.layerdrop
        config.layerdrop, config.apply_spec_augment = config.layerdrop if layer_drop else 0.0, False
        if (mask_embedding := getattr(self.model, "masked_spec_embed", None)) is not None:
            mask_embedding.requires_grad_(False)

    def _backbone_config(self) -> dict[str, object]:
        return self.model.config.to_dict() | {"apply_spec_augment": True, "layerdrop": self._layer_drop_of_backbone}


FAMILIES: dict[str, type[SpectrogramEncoder]] = {
    "whisper": Whisper,
    "audio-spectrogram-transformer": Patches,
    "wav2vec2-bert": Wav2Vec2Bert,
}
