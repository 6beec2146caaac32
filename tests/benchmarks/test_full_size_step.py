"""One PairTune step of each architecture at the size of its published base model, with random weights, and one
that trains adapters of rank 8: seconds of one core and the most memory that its process held. Some minutes and 5 GB:
`pytest -m benchmark -s tests/benchmarks/test_full_size_step.py`.
"""

import os
import resource
import subprocess
import sys
import time

import heading
import pytest
import torch

from audioconfit import encoders, losses
from audioconfit.encoders import adapters, weights

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

ROWS, SAMPLES = 4, 16_000
# openai/whisper-base; transformers' default is the base model of every other architecture.
WHISPER_BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}


def step(architecture: str, how: str = "full") -> str:
    """Of the second step of two, for the first makes room for Adam."""
    torch.set_num_threads(1)
    config, model = weights.ARCHITECTURES[architecture]
    shape = WHISPER_BASE if architecture == "whisper" else {}
    encoder = encoders.around(architecture, model(config(**shape))).train()
    if how == "lora":
        adapters.attach(encoder, rank=8, seed=0)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=5e-5)
    waveforms, labels = 0.1 * torch.randn(ROWS, SAMPLES), torch.arange(ROWS) // 2
    for _ in range(2):
        began = time.process_time()
        optimiser.zero_grad()
        losses.supcon(encoder(waveforms), labels).backward()
        optimiser.step()
        seconds = time.process_time() - began
    trainable = sum(parameter.numel() for parameter in trained) / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{architecture:30} {how:4} {trainable:5.1f} M, {seconds:5.1f} s, {memory:4.1f} GiB"


def test_a_step_at_full_size() -> None:
    heading.show(
        f"One step of {ROWS} x {SAMPLES / 16_000:g} s: trained parameters, CPU seconds, the most memory of the process"
    )
    for architecture, how in [*((name, "full") for name in weights.ARCHITECTURES), ("wav2vec2", "lora")]:
        ran = subprocess.run(
            [sys.executable, __file__, architecture, how],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        print(ran.stdout.strip(), flush=True)
        assert architecture in ran.stdout


if __name__ == "__main__":
    print(step(*sys.argv[1:]))
