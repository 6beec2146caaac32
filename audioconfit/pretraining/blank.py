"""Blank encoders: the shape of our own pre-trained backbones, and where their training starts."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audioconfit.audio import SAMPLE_RATE
from audioconfit.encoders import weights
from audioconfit.encoders.encoder import Encoder

# 0.75 M parameters, 1.5 MB in half precision, 320 samples a frame. Layer norm, so that padding costs nothing.
SHAPE: dict[str, Any] = {
    "conv_dim": (128, 128),
    "conv_kernel": (400, 4),
    "conv_stride": (160, 2),
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 16,
    "layerdrop": 0.0,
}
# The usual front of many short convolutions, for comparison.
USUAL_FRONT: dict[str, Any] = {"conv_dim": (64, 64, 64, 64), "conv_kernel": (20, 8, 4, 4), "conv_stride": (10, 4, 4, 2)}

LOWEST, HIGHEST = 60.0, 7600.0  # Hz, of the filter bank
PHASES = 4


def blank(architecture: str, *, seed: int, start: Literal["filters", "random"] = "filters", **shape: Any) -> Encoder:
    """An untrained encoder; with "filters" its first convolution is a bank of Gabor filters on the mel scale."""
    model = weights.random(architecture, seed=seed, **SHAPE | shape)
    if start == "filters":
        _filter_bank(_first_convolution(model))
    # SpecAugment's embedding takes a hidden frame's place, so that it is trained.
    return Encoder(f"{architecture}-blank", model, normalise=True, spec_augment=True)


def even_out(encoder: Encoder, waveforms: Float[Tensor, "batch samples"]) -> None:
    """Scale the filters such that on these waveforms the outputs of each have mean square 1, over its phases."""
    convolution = _first_convolution(encoder.model)
    with torch.no_grad():
        outputs = nn.functional.conv1d(waveforms[:, None], convolution.weight, stride=convolution.stride[0])
        power = outputs.square().mean(dim=(0, 2)).unflatten(0, (-1, PHASES)).mean(dim=1)
        convolution.weight.div_(power.sqrt().repeat_interleave(PHASES)[:, None, None])


def _filter_bank(convolution: nn.Conv1d) -> None:
    """Gabor filters, each in four phases: with the activation's bend the next layer can add up their power."""
    taps, count = convolution.kernel_size[0], convolution.out_channels // PHASES
    edges = _hertz(torch.linspace(_mel(LOWEST), _mel(HIGHEST), count + 2))
    width = ((edges[2:] - edges[:-2]) / 4).clamp(min=45)
    time = (torch.arange(taps) - (taps - 1) / 2) / SAMPLE_RATE
    envelope = torch.exp(-0.5 * (2.6 * width[:, None] * time) ** 2) * torch.hann_window(taps, periodic=False)
    turn = 2 * math.pi * edges[1:-1, None] * time
    waves = torch.stack([envelope * torch.cos(turn + phase * math.pi / 2) for phase in range(PHASES)], dim=1)
    with torch.no_grad():
        convolution.weight.copy_((waves / waves.norm(dim=-1, keepdim=True)).flatten(0, 1)[:, None])
        assert convolution.bias is not None
        # The four phases of a filter bend at different levels.
        convolution.bias.copy_(torch.linspace(-0.5, 0.5, PHASES).repeat(count))


def _first_convolution(model: nn.Module) -> nn.Conv1d:
    convolution = model.get_submodule("feature_extractor.conv_layers.0.conv")
    assert isinstance(convolution, nn.Conv1d)
    return convolution


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)
