"""Encoders of spectrograms: Whisper's encoder and the Audio Spectrogram Transformer.

Each has a fixed length, which its own feature extractor fills with silence; ours is computed in torch on the device.
Frames of that filling count for nothing in the mean, though attention sees them, as it did where the weights come from.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchaudio.compliance import kaldi
from transformers import PreTrainedConfig, PreTrainedModel

from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders.encoder import Count, Encoder
from audioconfit.encoders.layers import at_least_float32
from audioconfit.errors import InputError

WHISPER, AST = "whisper", "audio-spectrogram-transformer"
HOP = 160  # samples from one column of the spectrogram to the next
KALDI_WINDOW = 400
WHISPER_STRIDE = 2  # columns of an encoder's frame

EXTRACTORS: dict[str, Callable[..., Any]] = {
    WHISPER: transformers.WhisperFeatureExtractor,
    AST: transformers.ASTFeatureExtractor,
}


def receptive_field(config: PreTrainedConfig) -> int:
    """Samples that the first frame takes: of Whisper one step, of AST those of a patch."""
    if config.model_type == WHISPER:
        return WHISPER_STRIDE * HOP
    return KALDI_WINDOW + (config.patch_size - 1) * HOP


def longest(config: PreTrainedConfig) -> int:
    """Samples that fit: 30 s of Whisper, 10.2 s of AST."""
    if config.model_type == WHISPER:
        return WHISPER_STRIDE * HOP * int(config.max_source_positions)
    return KALDI_WINDOW + (int(config.max_length) - 1) * HOP


class SpectrogramEncoder(Encoder):
    """The mean of the hidden states over the frames that lie in the row: Whisper's over time, AST's patches over time
    and frequency. `settings`: preprocessor_config.json, where there is one.
    """

    longest: int
    mel_filters: Tensor  # of Whisper

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
        config = model.config
        if spec_augment:
            raise InputError(f"{name} has no SpecAugment; leave spec_augment off.")
        self.name, self.model, self.normalise = name, model, True
        self.dim, self.receptive_field = int(config.hidden_size), receptive_field(config)
        self.longest = longest(config)
        self.is_whisper = config.model_type == WHISPER
        if self.is_whisper and not layer_drop:
            setattr(model, "layerdrop", 0.0)  # noqa: B010
        bins = {"feature_size": config.num_mel_bins} if self.is_whisper else {"num_mel_bins": config.num_mel_bins}
        length = {} if self.is_whisper else {"max_length": config.max_length}
        self.extractor = EXTRACTORS[config.model_type](**(settings or {}) | bins | length)
        if self.is_whisper:
            filters = torch.from_numpy(self.extractor.mel_filters).float()
            self.register_buffer("mel_filters", filters, persistent=False)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, "batch"] | None = None,
        *,
        every_layer: bool = False,
    ) -> Float[Tensor, "batch *layers dim"]:
        """As `Encoder.forward`; InputError also for rows that are longer than the model's fixed length."""
        self._check(waveforms, lengths)
        if lengths is None:
            lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            inputs = self.spectrogram(waveforms, lengths)
        output = self.model(inputs, output_hidden_states=every_layer)
        states = [*output.hidden_states[:-1], output.last_hidden_state] if every_layer else [output.last_hidden_state]
        counted = self._counted(states[0].shape[1], lengths)[..., None]
        pooled = [(at_least_float32(hidden) * counted).sum(dim=1) / counted.sum(dim=1) for hidden in states]
        return torch.stack(pooled, dim=1) if every_layer else pooled[0]

    def spectrogram(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch rows columns"]:
        """What the model's own feature extractor gives for each row's valid samples, to 1e-4: of Whisper mel bins x
        time, of AST time x mel bins.
        """
        if self.is_whisper:
            valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
            return self._log_mel(F.pad(waveforms.masked_fill(~valid, 0), (0, self.longest - waveforms.shape[1])))
        columns = int(self.model.config.max_length)
        banks = [self._fbank(row[:length]) for row, length in zip(waveforms, lengths.tolist(), strict=True)]
        filled = torch.stack([F.pad(bank, (0, 0, 0, columns - len(bank))) for bank in banks])
        if not self.extractor.do_normalize:
            return filled.to(waveforms.dtype)
        return ((filled - self.extractor.mean) / (2 * self.extractor.std)).to(waveforms.dtype)

    def _log_mel(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins time"]:
        """WhisperFeatureExtractor's: eight powers of ten below each row's loudest, brought near -1 to 1."""
        window = torch.hann_window(self.extractor.n_fft, device=samples.device, dtype=samples.dtype)
        spectrum = torch.stft(samples, self.extractor.n_fft, HOP, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        found = (self.mel_filters.to(power.dtype).T @ power).clamp(min=1e-10).log10()
        return (torch.maximum(found, found.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def _fbank(self, samples: Float[Tensor, "samples"]) -> Float[Tensor, "time bins"]:
        """Kaldi's, as ASTFeatureExtractor asks for it."""
        return kaldi.fbank(
            samples.float()[None],
            sample_frequency=SAMPLE_RATE,
            window_type="hanning",
            num_mel_bins=self.extractor.num_mel_bins,
        )

    def _counted(self, places: int, lengths: Int[Tensor, "batch"]) -> Tensor:
        """Which hidden states are of the row itself, as 1 and 0."""
        frames = self.frame_count(lengths)[:, None]
        if self.is_whisper:
            return (torch.arange(places, device=lengths.device) < frames).float()
        config = self.model.config  # two tokens, then the patches of each band of frequencies
        across = (int(config.max_length) - config.patch_size) // config.time_stride + 1
        column = torch.arange(places - 2, device=lengths.device) % across
        return F.pad((column < frames).float(), (2, 0))

    def frame_count(self, samples: Count) -> Count:
        """Frames of a row of n samples: of Whisper steps of 20 ms, of AST patches in time."""
        if self.is_whisper:
            return samples // (WHISPER_STRIDE * HOP)
        columns = (samples - KALDI_WINDOW) // HOP + 1
        return (columns - self.model.config.patch_size) // self.model.config.time_stride + 1

    def _check(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None) -> None:
        samples = waveforms.shape[1]
        if samples > self.longest:
            raise InputError(
                f"{self.name} takes {self.longest / SAMPLE_RATE:g} s at most, not {samples / SAMPLE_RATE:g} s; choose "
                "shorter chunks."
            )
        shortest = samples if lengths is None or lengths.device.type != "cpu" else int(lengths.min())
        if shortest < self.receptive_field:
            raise InputError(
                f"{self.name} cannot embed {shortest} samples: one frame takes {self.receptive_field}. "
                f"Leave shorter clips out, or pad them."
            )

    def _backbone_config(self) -> dict[str, object]:
        return dict(self.model.config.to_dict())

    def _preprocessor_config(self) -> dict[str, object]:
        return dict(self.extractor.to_dict())
