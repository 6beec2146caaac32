"""The encoder: waveform to embedding, such that an embedding depends on its clip alone, whatever it is batched with."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioPositionalConvLayer
from transformers.models.sew.modeling_sew import SEWEncoder
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerConvolutionModule
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from audioconfit import files
from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders.layers import (
    ATTENTION,
    GatedAttention,
    ValidBatchNorm,
    ValidConvolution,
    ValidGroupNorm,
    ValidPositions,
    ValidSqueeze,
    at_least_float32,
    convolve_on_gpu,
    standardise,
)
from audioconfit.encoders.weights import quiet
from audioconfit.errors import InputError

# A layer of the transformer, and what some have behind the last one: a norm, SEW also a layer that undoes its pooling.
LAYER = re.compile(r"model\.(?:encoder\.)?layers\.(\d+)\.")
BEHIND = re.compile(r"model\.(?:encoder\.)?(layer_?norm|upsample)\.")
ENDS_APART = ("whisper", "audio-spectrogram-transformer", "sew", "wav2vec2-conformer")

Count = TypeVar("Count", int, Tensor)

# transformers' layers and ours in their place: exact with padding, or faster.
EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: ValidGroupNorm,
    nn.BatchNorm1d: ValidBatchNorm,
    Data2VecAudioPositionalConvLayer: ValidPositions,
    SEWEncoder: ValidSqueeze,
    Wav2Vec2ConformerConvolutionModule: ValidConvolution,
    WavLMAttention: GatedAttention,
}
BY_FRAME = (ValidBatchNorm, ValidConvolution, ValidPositions)  # are told how many frames of each row are valid


class Encoder(nn.Module):
    """The temporal mean of a backbone's hidden states over the valid frames, the last layer's or every layer's; not
    L2-normalised.

    `normalise` brings each row to zero mean and unit variance, as the backbone was trained; None: by architecture.
    """

    name: str
    dim: int
    longest: int | None = None  # samples that it takes at most
    receptive_field: int  # samples that the first frame sees; shorter clips cannot be embedded
    spec_augment: bool = False

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        *,
        normalise: bool | None = None,
        spec_augment: bool = False,
        layer_drop: bool = False,
    ) -> None:
        super().__init__()
        config = model.config
        self.name = name
        self.model = model
        self.dim = int(config.hidden_size)
        self.receptive_field = receptive_field(config)
        # So say the preprocessor_config.json files on the hub: all but wavlm-base and wavlm-base-plus.
        by_architecture = config.model_type != "wavlm" or config.feat_extract_norm == "layer"
        self.normalise = by_architecture if normalise is None else normalise

        self.spec_augment = spec_augment
        self._layer_drop_of_backbone = config.layerdrop
        config.layerdrop = config.layerdrop if layer_drop else 0.0
        config.apply_spec_augment = spec_augment
        if (mask_embedding := getattr(model, "masked_spec_embed", None)) is not None:
            mask_embedding.requires_grad_(spec_augment)  # else a trained parameter that never gets a gradient

        if config._attn_implementation == "sdpa":
            config._attn_implementation = ATTENTION

        # No gradient towards the waveform, which nobody reads; the weights still train. Exact, and cheaper.
        setattr(model.feature_extractor, "_requires_grad", False)  # noqa: B010
        # The same mask as transformers' own, which puts a number from the CPU into a tensor of the GPU and waits.
        setattr(model, "_get_feature_vector_attention_mask", partial(_valid_frames, config))  # noqa: B010
        if config.model_type == "wav2vec2-conformer":  # has it, and does not use it
            model.get_submodule("encoder.pos_conv_embed").requires_grad_(False)
        for module in model.get_submodule("encoder.pos_conv_embed").modules():
            if isinstance(module, nn.Conv1d) and module.stride == (1,):  # its class is weight_norm's
                setattr(module, "forward", partial(convolve_on_gpu, module))  # noqa: B010
        for module in model.modules():
            # Only the class changes, not the parameters and their names: checkpoints remain transformers' own.
            for plain, exact in EXACT.items():
                if isinstance(module, plain):
                    module.__class__ = exact

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, "batch"] | None = None,
        *,
        every_layer: bool = False,
    ) -> Float[Tensor, "batch *layers dim"]:
        """Embeddings, in float32 also under autocast (float64 for a float64 encoder).

        `lengths` None: every row is full, nothing is masked. Else the samples of each row that count: normalisation,
        GroupNorm, attention and the mean leave the padding out, and an embedding is that of the row alone, to 2e-6.
        `every_layer`: an embedding per layer, of one forward pass: what enters the first layer, then what each gives.
        InputError: a row shorter than the receptive field; with SpecAugment, chunks shorter than what it masks.
        """
        self._check(waveforms, lengths)
        if lengths is None and self.longest is not None:  # it is filled up, and the filling does not count
            lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        states = self._states(waveforms, lengths, every_layer)
        frames = states[-1].shape[1]
        counted = self._counted(frames, lengths)
        pooled = [_mean(at_least_float32(self._restored(hidden, frames, lengths)), counted) for hidden in states]
        return torch.stack(pooled, dim=1) if every_layer else pooled[0]

    @property
    def layer_count(self) -> int:
        """Embeddings that `every_layer` gives."""
        return int(self.model.config.num_hidden_layers) + 1

    def layers_above(self, parameter: str) -> int:
        """How many layers lie above the one that this parameter belongs to: 0 of the last and of what normalises after
        it, all of what comes before the first.
        """
        layers = self.layer_count - 1
        if found := LAYER.match(parameter):
            return layers - 1 - int(found[1])
        return 0 if ends_apart(self.model.config) and BEHIND.match(parameter) else layers

    def freeze(self, what: int | str | None) -> None:
        """Leaves part of the backbone as it is: "conv" what comes before the first layer, a number that and as many
        layers from below; None nothing.
        """
        if what is None:
            return
        layers, still = self.layer_count - 1, 0 if what == "conv" else int(what)
        for name, parameter in self.named_parameters():
            if self.layers_above(name) >= layers - still:
                parameter.requires_grad_(False)

    def _states(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None, every_layer: bool
    ) -> list[Float[Tensor, "batch places dim"]]:
        """The last hidden state, or that of every layer; the last one is normalised where the backbone does so."""
        if lengths is None:
            return self._run(standardise(waveforms) if self.normalise else waveforms, None, every_layer)
        valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        inputs = standardise(waveforms, valid) if self.normalise else waveforms.masked_fill(~valid, 0)
        with self._only_valid(lengths):
            return self._run(inputs, valid.long(), every_layer)

    def _run(self, inputs: Tensor, mask: Int[Tensor, "batch steps"] | None, every_layer: bool) -> list[Tensor]:
        """What the backbone gives."""
        output = self.model(inputs, attention_mask=mask, output_hidden_states=every_layer)
        return [*output.hidden_states[:-1], output.last_hidden_state] if every_layer else [output.last_hidden_state]

    def _restored(
        self, hidden: Float[Tensor, "batch places dim"], frames: int, lengths: Int[Tensor, "batch"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """SEW's pooled frames as often as each stands for, and 0 for what is left of a row; of others as it is."""
        if hidden.shape[1] == frames:
            return hidden
        squeeze = self.model.config.squeeze_factor
        if lengths is not None:
            whole = torch.arange(hidden.shape[1], device=hidden.device) < self.frame_count(lengths)[:, None] // squeeze
            hidden = hidden.masked_fill(~whole[..., None], 0)
        repeated = hidden.repeat_interleave(squeeze, dim=1)
        return F.pad(repeated, (0, 0, 0, frames - repeated.shape[1]))

    def _counted(self, places: int, lengths: Int[Tensor, "batch"] | None) -> Bool[Tensor, "batch places"] | None:
        """Which of a hidden state's places the mean is taken over; None: all of them."""
        if lengths is None:
            return None
        return torch.arange(places, device=lengths.device) < self.frame_count(lengths)[:, None]

    def frame_count(self, samples: Count) -> Count:
        """Frames of a row of n samples, one receptive field or more: (n - 400) // 320 + 1 in the real backbones."""
        return _steps(samples, self.model.config.conv_kernel, self.model.config.conv_stride)

    def save(self, folder: Path) -> None:
        """Into a folder that `encoders.load(str(folder))` and transformers read. Each file is written whole, the
        weights last.
        """
        self.save_configuration(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as made:
            with quiet():
                self.model.save_pretrained(made)
            for file in Path(made).glob("*.safetensors*"):
                with files.whole(folder / file.name) as temporary:
                    file.replace(temporary)

    def save_configuration(self, folder: Path) -> None:
        """All but the weights."""
        files.write(folder / "config.json", _as_json(self._backbone_config()))
        files.write(folder / "preprocessor_config.json", _as_json(self._preprocessor_config()))

    def _check(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"] | None) -> None:
        samples = waveforms.shape[1]
        if self.longest is not None and samples > self.longest:
            raise InputError(
                f"{self.name} takes {self.longest / SAMPLE_RATE:g} s at most, not {samples / SAMPLE_RATE:g} s; choose "
                "shorter chunks."
            )
        shortest = samples
        # Reading a length would make the CPU wait for a GPU (`training.fit` and `features.extract` have looked before
        # they come here), and a graph that is exported has none yet.
        if lengths is not None and lengths.device.type == "cpu" and not torch.compiler.is_exporting():
            shortest = int(lengths.min())
        if shortest < self.receptive_field:
            raise InputError(
                f"{self.name} cannot embed {shortest} samples: one frame takes {self.receptive_field}. "
                f"Leave shorter clips out, or pad them."
            )
        config = self.model.config
        if self.training and self.spec_augment and self.frame_count(samples) < config.mask_time_length:
            raise InputError(
                f"SpecAugment masks {config.mask_time_length} frames at a time, and a chunk of {samples} samples has "
                f"only {self.frame_count(samples)}; use longer chunks, or leave SpecAugment off."
            )

    @contextlib.contextmanager
    def _only_valid(self, lengths: Int[Tensor, "batch"]) -> Iterator[None]:
        """Within, GroupNorm takes its statistics over the steps that lie in the valid samples, and stacked or
        normalised positional convolutions and a conformer's see the valid frames.
        """
        norms = [module for module in self.modules() if isinstance(module, ValidGroupNorm)]
        by_frame = [module for module in self.modules() if isinstance(module, BY_FRAME)]
        config = self.model.config
        for norm in norms:  # one at most, behind the first convolution
            norm.steps = _steps(lengths, config.conv_kernel[:1], config.conv_stride[:1])
        for layer in by_frame:
            layer.frames = self.frame_count(lengths)
        try:
            yield
        finally:
            for norm in norms:
                norm.steps = None
            for layer in by_frame:
                layer.frames = None

    def _backbone_config(self) -> dict[str, object]:
        """The backbone's own configuration, without what this encoder switched off."""
        return self.model.config.to_dict() | {"apply_spec_augment": True, "layerdrop": self._layer_drop_of_backbone}

    def _preprocessor_config(self) -> dict[str, object]:
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": SAMPLE_RATE,
            "padding_value": 0.0,
            "do_normalize": self.normalise,
            "return_attention_mask": True,
        }


def _steps(samples: Count, kernels: Sequence[int], strides: Sequence[int]) -> Count:
    """The output length of unpadded convolutions."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def ends_apart(config: PreTrainedConfig) -> bool:
    """Whether something comes behind the last layer, so that the layers' hidden states are not of one kind."""
    return config.model_type in ENDS_APART or bool(getattr(config, "do_stable_layer_norm", False))


def _mean(
    hidden: Float[Tensor, "batch places dim"], counted: Bool[Tensor, "batch places"] | None
) -> Float[Tensor, "batch dim"]:
    if counted is None:
        return hidden.mean(dim=1)
    return hidden.masked_fill(~counted[..., None], 0).sum(dim=1) / counted.sum(dim=1, keepdim=True)


def _valid_frames(
    config: PreTrainedConfig, frames: int, valid: Int[Tensor, "batch samples"], add_adapter: bool | None = None
) -> Bool[Tensor, "batch frames"]:
    counts = _steps(valid.sum(dim=1), config.conv_kernel, config.conv_stride)
    return torch.arange(frames, device=valid.device) < counts[:, None]


def receptive_field(config: PreTrainedConfig, *, frames: int | None = None) -> int:
    """Samples that so many frames of the unpadded convolutions see together; None: as many as the layers read at once,
    which is one, and of SEW those that it pools into one.
    """
    samples = int(getattr(config, "squeeze_factor", 1)) if frames is None else frames
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _as_json(content: dict[str, object]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
