"""Layers that take the place of transformers' own: the same parameters and names, exact with padding, or faster."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_bidirectional_mask, sdpa_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioPositionalConvLayer
from transformers.models.sew.modeling_sew import SEWEncoder
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerConvolutionModule
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

ATTENTION = "audioconfit"  # transformers' SDPA under a name of our own, which our mask goes with


def padding_mask(
    *, attention_mask: Bool[Tensor, "batch time"] | None, allow_is_bidirectional_skip: bool = False, **rest: Any
) -> Bool[Tensor, "batch 1 time time"] | None:
    """transformers' mask for SDPA, without its look at whether it masks anything at all: for that the CPU would wait
    for the GPU in every step whose chunks are padded. On the CPU, where looking is free, it is transformers' own.
    """
    allow_is_bidirectional_skip &= attention_mask is None or attention_mask.device.type == "cpu"
    found: Tensor | None = sdpa_mask(
        attention_mask=attention_mask, allow_is_bidirectional_skip=allow_is_bidirectional_skip, **rest
    )
    return found


AttentionInterface.register(ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(ATTENTION, padding_mask)


class ValidGroupNorm(nn.GroupNorm):
    """GroupNorm, one channel per group, over the first `steps` of each row; over all of them where `steps` is None.

    The base models were trained without padding: with it, plain statistics move an embedding further than another clip
    is away. Five times the cost of a plain GroupNorm, so only batches that hold padding set `steps`.
    """

    steps: Int[Tensor, "batch"] | None = None

    def forward(self, input: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
        if self.steps is None:
            return super().forward(input)
        assert self.num_groups == self.num_channels
        hidden = at_least_float32(input)
        count = self.steps[:, None, None]
        valid = torch.arange(hidden.shape[-1], device=hidden.device) < count
        mean = (hidden * valid).sum(dim=-1, keepdim=True) / count
        centred = hidden - mean
        variance = (centred.square() * valid).sum(dim=-1, keepdim=True) / count
        return torch.addcmul(self.bias[:, None], centred * torch.rsqrt(variance + self.eps), self.weight[:, None])


class ValidPositions(Data2VecAudioPositionalConvLayer):
    """One of data2vec's stacked positional convolutions, over the first `frames` of each row; over all of them where
    `frames` is None. Each layer's output is no zero in the padding, and the next one would read it.
    """

    frames: Int[Tensor, "batch"] | None = None

    def forward(self, hidden_states: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim time"]:
        found: Tensor = super().forward(hidden_states)
        if self.frames is None:
            return found
        counted = torch.arange(found.shape[-1], device=found.device) < self.frames[:, None]
        return found * counted[:, None]


class ValidBatchNorm(nn.BatchNorm1d):
    """The batch normalisation in front of a positional convolution (mHuBERT at 25 Hz), 0 behind the first `frames` of
    each row: shifted padding would reach the frames beside it. By the moments that the backbone was trained with, in
    training too, as a conformer's below.
    """

    frames: Int[Tensor, "batch"] | None = None

    def forward(self, input: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim time"]:
        found = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.frames is None:
            return found
        counted = torch.arange(found.shape[-1], device=found.device) < self.frames[:, None]
        return found * counted[:, None]


class ValidConvolution(Wav2Vec2ConformerConvolutionModule):
    """A conformer's convolution over the first `frames` of each row; over all of them where `frames` is None. Its batch
    normalisation is by the moments that the backbone was trained with, in training too: those of a batch would make an
    embedding depend on the others. Scale and shift are trained.
    """

    frames: Int[Tensor, "batch"] | None = None

    def forward(self, hidden_states: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        hidden = self.glu(self.pointwise_conv1(self.layer_norm(hidden_states).transpose(1, 2)))
        if self.frames is not None:
            counted = torch.arange(hidden.shape[-1], device=hidden.device) < self.frames[:, None]
            hidden = hidden * counted[:, None]
        norm = self.batch_norm
        hidden = F.batch_norm(
            self.depthwise_conv(hidden), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        found: Tensor = self.dropout(self.pointwise_conv2(self.activation(hidden)))
        return found.transpose(1, 2)


class ValidSqueeze(SEWEncoder):
    """SEW's layers over every two frames averaged, of those that lie whole in the row; what is left of a row with an
    odd number of frames is 0 in the end, as it is without padding.
    """

    def forward(
        self,
        hidden_states: Float[Tensor, "batch frames dim"],
        attention_mask: Bool[Tensor, "batch frames"] | None = None,
        **unused: Any,
    ) -> BaseModelOutput:
        if attention_mask is None:
            return super().forward(hidden_states, None, **unused)
        squeeze, frames = self.config.squeeze_factor, hidden_states.shape[1]
        rows = hidden_states.masked_fill(~attention_mask.bool()[..., None], 0).transpose(1, 2)
        pooled, positions = self.pool(rows), self.pos_conv_embed(rows)
        hidden = (pooled + positions[..., : pooled.shape[-1]]).transpose(1, 2)
        counts = attention_mask.sum(dim=1, keepdim=True) // squeeze
        valid = torch.arange(hidden.shape[1], device=hidden.device) < counts
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=valid)
        hidden = self.dropout(self.layer_norm(hidden))
        for layer in self.layers:
            drop = self.config.layerdrop if self.training else 0.0
            if drop == 0.0 or torch.rand([]) >= drop:
                hidden = layer(hidden, attention_mask=mask, **unused)
        found = self.upsample(hidden) * valid.repeat_interleave(squeeze, dim=1)[..., None]
        return BaseModelOutput(last_hidden_state=F.pad(found, (0, 0, 0, frames - found.shape[1])))


def convolve_on_gpu(
    convolution: nn.Conv1d, input: Float[Tensor, "batch channels time"]
) -> Float[Tensor, "batch channels steps"]:
    """What the convolution gives, on a GPU through the Fourier transform: for the positional convolution, 128 taps over
    groups of 48 channels, where cuDNN finds no kernel for tensor cores. Forward and backward of 64 clips of 4 s on an
    H200: 2.4 ms instead of 17.5 in bf16 and 22.8 in float32, and 0.9 GiB instead of up to 33.

    Computed in float32 (float64 for float64) also under autocast.
    """
    if not input.is_cuda:
        return nn.Conv1d.forward(convolution, input)
    with torch.autocast(input.device.type, enabled=False):
        found = fourier_convolution(
            at_least_float32(input),
            at_least_float32(convolution.weight),
            padding=int(convolution.padding[0]),
            groups=convolution.groups,
        )
        if convolution.bias is not None:
            found = found + convolution.bias[:, None]
    return found.to(torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else input.dtype)


def fourier_convolution(
    input: Float[Tensor, "batch channels time"],
    weight: Float[Tensor, "out channels_per_group taps"],
    *,
    padding: int,
    groups: int,
) -> Float[Tensor, "batch out steps"]:
    """F.conv1d of stride 1 as products of spectra, a matrix product per group and frequency."""
    steps = input.shape[-1] + 2 * padding - weight.shape[-1] + 1
    size = -(-(input.shape[-1] + 2 * padding) // 64) * 64  # no output wraps around, and the transform is quick
    rows = F.pad(input, (padding, padding)).unflatten(1, (groups, -1))
    signal, taps = torch.fft.rfft(rows, size), torch.fft.rfft(weight.unflatten(0, (groups, -1)), size)
    product = torch.einsum("bgit,goit->bgot", signal, taps.conj())  # conj: a correlation, as conv1d is
    return torch.fft.irfft(product, size)[..., :steps].flatten(1, 2)


class GatedAttention(WavLMAttention):
    """WavLM's attention (Chen et al. 2022, equations 3 to 7) through scaled_dot_product_attention.

    The gated relative position bias is its additive mask. transformers' own runs through multi_head_attention_forward
    and materialises averaged weights that nobody reads.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "batch time dim"],
        attention_mask: Bool[Tensor, "batch time"] | None = None,
        position_bias: Float[Tensor, "1 heads time time"] | None = None,
        index: int = 0,
        **unused: Any,
    ) -> tuple[Float[Tensor, "batch time dim"], None, Float[Tensor, "1 heads time time"]]:
        time = hidden_states.shape[1]
        if position_bias is None:  # the first layer makes it, the others are handed it
            position_bias = self.compute_bias(time, time)[None]
        bias = self._gate(self._heads(hidden_states)) * position_bias
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None, :].bool(), float("-inf"))
        query, key, value = (self._heads(project(hidden_states)) for project in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None, position_bias

    def compute_bias(self, query_length: int, key_length: int) -> Float[Tensor, "heads query key"]:
        # On the weights' device. Some releases of transformers find the buckets on the CPU, and the copy waits.
        device = self.rel_attn_embed.weight.device
        rows, columns = (torch.arange(length, device=device) for length in (query_length, key_length))
        bias: Tensor = self.rel_attn_embed(self._relative_positions_bucket(columns - rows[:, None]))
        return bias.permute(2, 0, 1)

    def _heads(self, hidden: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch heads time head_dim"]:
        return hidden.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _gate(self, hidden: Float[Tensor, "batch heads time head_dim"]) -> Float[Tensor, "batch heads time 1"]:
        # transformers projects to 2 x 4 numbers and adds up the four; here the weights are added up first.
        weight = self.gru_rel_pos_linear.weight.unflatten(0, (2, 4)).sum(dim=1)
        bias = self.gru_rel_pos_linear.bias.unflatten(0, (2, 4)).sum(dim=1)
        update, reset = torch.sigmoid(F.linear(hidden, weight, bias)).chunk(2, dim=-1)
        return update * (reset * self.gru_rel_pos_const - 1.0) + 2.0


def standardise(
    waveforms: Float[Tensor, "batch samples"], valid: Bool[Tensor, "batch samples"] | None = None
) -> Float[Tensor, "batch samples"]:
    """Each row to zero mean and unit variance over its valid samples, zero elsewhere (Wav2Vec2FeatureExtractor's)."""
    if valid is None:
        variance, mean = torch.var_mean(waveforms, dim=1, correction=0, keepdim=True)
        return (waveforms - mean) * torch.rsqrt(variance + 1e-7)
    count = valid.sum(dim=1, keepdim=True)
    mean = waveforms.masked_fill(~valid, 0).sum(dim=1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(~valid, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-7)


def at_least_float32(hidden: Tensor) -> Tensor:
    """Statistics and means are taken in float32 under autocast, and stay in float64 for a float64 encoder."""
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))
