"""The benchmark's arithmetic: operations counted by hand are those that torch counts forward. And its tables."""

import material
import measuring
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["wav2vec2-base", "wavlm-base"])
def test_operations_by_hand_are_those_counted(name: str) -> None:
    device = torch.device("cpu")  # on a GPU the positional convolution is a Fourier transform, which is not counted
    encoder = material.full_size(name, device, **material.SMALL)
    with sdpa_kernel([SDPBackend.MATH]):  # seen by the counter on every device
        found = measuring.step_flops(encoder, 2, 16_000, device, bf16=False)
    assert found["forward_counted"] == pytest.approx(found["forward_by_hand"], rel=0.01)  # WavLM's gates are beside
    # Backward, the counter takes the grouped convolution for a whole one.
    assert found["counted"] > found["by_hand"]


def test_a_table_has_a_column_for_each_number_that_a_line_of_its_part_has() -> None:
    lines = [{"rows": 4, "milliseconds": 1.23456, "flops": {"counted": 2.0}}, {"rows": 256, "outcome": "out of memory"}]
    assert measuring.tables({"environment": {"gpu": None}, "steps": lines}).splitlines() == [
        "gpu: None",
        "",
        "STEPS",
        "rows  milliseconds  outcome",
        "4     1.235         -",
        "256   -             out of memory",
    ]
