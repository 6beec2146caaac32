"""Adapters: low-rank ones (LoRA, Hu et al. 2021, "LoRA: Low-rank adaptation of large language models") in an encoder's
layers, by the library peft. While they are trained the backbone's own weights stay; merged, they are part of these.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

from audioconfit import randomness
from audioconfit.encoders.encoder import LAYER, Encoder
from audioconfit.errors import InputError

# Of each layer the attention's query, key, value and output and the linear layers of its feed-forward blocks. Hu et al.
# adapt the attention alone; to match full tuning all linear layers want one (Dettmers et al. 2023, "QLoRA", section 4).
ADAPTED = (
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "linear_q", "linear_k", "linear_v", "linear_out"),
    *("intermediate_dense", "output_dense", "fc1", "fc2"),
)
# What the product of the two matrices is multiplied by is ALPHA / rank, so that another rank wants no other learning
# rate (Hu et al., 4.1): 2 at the default rank of 8.
ALPHA = 16


def check() -> None:
    """InputError where peft is not installed. Imports nothing."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("Setting tune=lora needs the package peft: pip install 'audioconfit[lora]'.")


def attach(encoder: Encoder, *, rank: int, seed: int) -> None:
    """Low-rank adapters beside the linear layers of every layer, in place; nothing else of the encoder is trained then.

    The first matrix is drawn from `seed`, the second is 0: the embeddings are what they were. InputError: no peft.
    """
    check()
    import peft

    adapted = [f"model.{name}" for name, module in encoder.model.named_modules() if isinstance(module, nn.Linear)]
    adapted = [name for name in adapted if LAYER.match(name) and name.rpartition(".")[2] in ADAPTED]
    config = peft.LoraConfig(
        r=rank, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=[name.removeprefix("model.") for name in adapted]
    )
    with randomness.private(seed, 0, torch.device("cpu")):
        peft.inject_adapter_in_model(config, encoder.model)


def merge(encoder: Encoder) -> None:
    """The adapters' products added to the weights beside them, in place; the encoder is a plain one again. Nothing
    where there are none.
    """
    for name, module in list(encoder.model.named_modules()):
        if hasattr(module, "lora_A"):
            adapter: Any = module
            adapter.merge()
            encoder.model.set_submodule(name, adapter.get_base_layer())
