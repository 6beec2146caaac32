"""Precision: the numbers that an encoder computes in. Only its matrix products and convolutions run in half precision;
weights, head, loss and Adam stay in float32.

fp16 is for GPUs without bf16. It has too few exponents for small gradients: the loss is scaled up before the backward
pass, and a step whose gradients overflow is left out and the scale halved (Micikevicius et al. 2018, arXiv 1710.03740).
"""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from audioconfit.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Below it gradients overflow that were not scaled up at all: no smaller scale is worth a try.
LEAST_SCALE = 1.0


def best(device: torch.device | str) -> Precision:
    """bf16 on a GPU that computes in it, fp16 on one whose tensor cores have that alone (Volta, Turing), else fp32."""
    device = torch.device(device)
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"


def check(precision: Precision, device: torch.device) -> None:
    """Refuses (InputError) bf16 where a GPU would only emulate it, slower than fp32."""
    if precision == "bf16" and device.type == "cuda" and (better := best(device)) != "bf16":
        raise InputError(f"{torch.cuda.get_device_name(device)} does not compute in bf16; choose precision {better}.")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which an encoder runs."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


def scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """What scales the loss and leaves steps out; it does nothing but for fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
