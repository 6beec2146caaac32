"""The GPU computes what the CPU computes: losses, gradients, features, probes; in float32 and, within bounds, bf16."""

import copy
from functools import partial
from typing import Any

import material
import pytest
import torch
from material import shift
from torch import Tensor

from audioconfit import caching, encoders, features, finetune, losses, mining, neighbours, pairtune, probe
from audioconfit.batches import Batch

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
ARCHITECTURES = ["wav2vec2-random", "hubert-random", "wavlm-random"]
PADDED, FULL = (0.2, 0.6), (0.6, 0.6)
MINED = {
    "every pair": {},
    "multi-similarity": {"miner": mining.multi_similarity},
    "hardest": {"miner": mining.hardest},
    "denominator kept": {"miner": mining.hardest, "keep_denominator": True},
}


def of_one_step(
    name: str, method: str, device: torch.device, seconds: tuple[float, float], *, bf16: bool = False
) -> tuple[float, Tensor]:
    """Loss and gradient of the first batch, with an encoder that draws nothing."""
    encoder = encoders.load(name).to(device).train()
    if method == "pairtune":
        head: torch.nn.Module = pairtune.Projector(encoder.dim, 32)
        loss: caching.Loss = partial(losses.supcon, miner=mining.multi_similarity)
    else:
        head, loss = torch.nn.Linear(encoder.dim, 4), losses.cross_entropy
    with torch.no_grad():  # the same head everywhere, spread enough to tell the rows apart
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    head.to(device)

    def embed(piece: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            pooled = encoder(piece.waveforms, piece.lengths)
        return head(pooled.float())

    batch = next(material.batches(device, seconds=seconds).epoch(1))
    assert (batch.lengths is None) == (seconds == FULL)
    value = caching.backward(embed, loss, batch, micro_batch=len(batch))
    return value.item(), material.gradient(torch.nn.ModuleList([encoder, head]))


@pytest.mark.parametrize("seconds", [FULL, PADDED], ids=["full", "padded"])
@pytest.mark.parametrize("method", ["pairtune", "finetune"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradient_of_a_step(
    name: str, method: str, seconds: tuple[float, float], device: torch.device
) -> None:
    expected, slope = of_one_step(name, method, CPU, seconds)
    found, slope_found = of_one_step(name, method, device, seconds)
    print(f"\n{name} {method}: loss off by {abs(found - expected):.1e}, gradient by {shift(slope_found, slope):.1e}")
    assert found == pytest.approx(expected, rel=1e-4)
    assert shift(slope_found, slope) < 1e-4


@pytest.mark.parametrize("method", ["pairtune", "finetune"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bf16_stays_near_float32(name: str, method: str, device: torch.device) -> None:
    """bf16 has 8 bits: 4e-3 per operation. On the CPU, autocast moves these gradients by 0.8 to 1.6 per cent."""
    expected, slope = of_one_step(name, method, CPU, FULL)
    found, slope_found = of_one_step(name, method, device, FULL, bf16=True)
    aligned = torch.nn.functional.cosine_similarity(slope_found, slope, dim=0).item()
    print(f"\n{name} {method}: loss off by {abs(found / expected - 1):.1e}, gradient {shift(slope_found, slope):.1e}")
    assert found == pytest.approx(expected, rel=3e-2)
    assert aligned > 0.98


@pytest.mark.parametrize("kind", MINED)
def test_supcon_and_mining(kind: str, device: torch.device) -> None:
    rows = torch.randn(96, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(96) % 7
    found = []
    for place in (CPU, device):
        leaf = rows.detach().clone().to(place).requires_grad_()
        value = losses.supcon(leaf, labels.to(place), **MINED[kind])
        value.backward()
        found.append((value.item(), leaf.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    assert shift(found[1][1], found[0][1]) < 1e-12


@pytest.mark.parametrize("method", [pairtune, finetune])
def test_a_training_run_tells_the_same_losses(method: Any, device: torch.device) -> None:
    told = [
        material.told(
            method.train,
            encoders.load("wav2vec2-random"),
            material.batches(place),
            lr=1e-4,
            epochs=3,
            seed=0,
            device=place,
            micro_batch=None,
        )
        for place in (CPU, device)
    ]
    assert told[1] == pytest.approx(told[0], rel=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_those_of_the_cpu_and_of_the_clip_alone(name: str, device: torch.device) -> None:
    waveforms, clips, classes = material.clips(each=3, seconds=(0.2, 0.9))
    extract = partial(features.extract, encoders.load(name), waveforms, classes=classes, chunk_seconds=0.5)
    together = extract(clips, device=device).embeddings
    alone = torch.cat([extract([clip], device=device).embeddings for clip in clips])
    expected = extract(clips).embeddings
    apart = (expected - expected.mean(0)).norm() / expected.norm()
    print(f"\n{name}: from the CPU {shift(together, expected):.1e}, from alone {shift(together, alone):.1e}")
    print(f"for comparison, the clips are {apart:.1e} apart")
    assert shift(together, expected) < 2e-5
    assert shift(together, alone) < 2e-5


@pytest.mark.cuda_only
def test_what_tf32_does_to_features(device: torch.device) -> None:
    """torch lets convolutions use TF32 (10 bits) unless told otherwise; so does precision fp32 of ours."""
    waveforms, clips, classes = material.clips(each=3)
    encoder = encoders.load("wav2vec2-random")
    extract = partial(features.extract, encoder, waveforms, clips, classes=classes, chunk_seconds=0.5)
    expected = extract().embeddings
    torch.backends.cudnn.allow_tf32 = True
    found = extract(device=device).embeddings
    print(f"\nTF32 in the convolutions moves features by {shift(found, expected):.1e}")
    assert shift(found, expected) < 2e-3


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
@pytest.mark.parametrize("several", [False, True], ids=["one label", "label sets"])
def test_a_probe_is_the_one_of_the_cpu(kind: Any, several: bool, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    rows = torch.randn(120, 24, generator=draw) + 2 * torch.nn.functional.one_hot(labels, 24)
    targets = torch.nn.functional.one_hot(labels, 4).float() if several else labels
    keys = tuple(map(str, range(120)))
    train = features.Features(rows[:80], keys[:80], targets[:80])
    valid = features.Features(rows[80:], keys[80:], targets[80:])
    fit = partial(probe.fit, train, valid, classes=("a", "b", "c", "d"), lr=1e-2, epochs=20, kind=kind)
    expected, found = fit(), fit(device=device)
    assert found.weight.device.type == "cpu"
    assert shift(found.logits(rows), expected.logits(rows)) < 1e-3
    vote = partial(neighbours.fit, train, valid, classes=("a", "b", "c", "d"))
    near, near_found = vote(), vote(device=device)
    assert near_found.embeddings.device.type == "cpu"
    assert near_found.k == near.k
    assert shift(near_found.logits(rows, device=device), near.logits(rows)) < 1e-3


def test_an_encoder_moves_to_the_gpu_and_back(device: torch.device) -> None:
    encoder = encoders.load("wavlm-random")
    before = copy.deepcopy(encoder.state_dict())
    encoder.to(device).to("cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
