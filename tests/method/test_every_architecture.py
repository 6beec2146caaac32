"""Every architecture: an embedding is its clip's alone, two ranks are one, a run goes on where it ended."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_encoders import encoder_of, noise, shift, tones
from torch import multiprocessing

from audioconfit import caching, losses, pairtune, ranks
from audioconfit.batches import Batch
from audioconfit.encoders import Encoder, adapters, weights
from audioconfit.training import Settings

ARCHITECTURES = list(weights.ARCHITECTURES)
ADAPTED = "wavlm adapted"  # by LoRA: only its adapters are trained
TRAINED = [*ARCHITECTURES, ADAPTED]


def made(architecture: str) -> Encoder:
    """A tiny one, with as many stacked convolutions as the real data2vec has."""
    if architecture == ADAPTED:
        encoder = made("wavlm")
        adapters.attach(encoder, rank=4, seed=0)
        return encoder
    stacked = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19} if architecture == "data2vec-audio" else {}
    return encoder_of(architecture, **stacked)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedding_is_that_of_its_clip_alone_in_any_batch(architecture: str) -> None:
    encoder = made(architecture)

    @settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(lengths=st.lists(st.integers(encoder.receptive_field, 12_000), min_size=2, max_size=4))
    def holds(lengths: list[int]) -> None:
        waveforms = noise(len(lengths), max(lengths), seed=sum(lengths))
        with torch.no_grad():
            together = encoder(waveforms, torch.tensor(lengths))
            for row, length in enumerate(lengths):
                assert shift(together[row : row + 1], encoder(waveforms[row : row + 1, :length])) < 2e-6

    holds()


def gradient(architecture: str) -> torch.Tensor:
    """Of SupCon over twelve rows of unlike length, of which this rank has its share; in float64, of all ranks."""
    encoder = made(architecture).double().train()
    waveforms, labels = noise(12, 6_000).double(), torch.arange(12) // 3
    lengths = torch.tensor([6_000, 4_000, 5_000] * 4)
    rows = torch.arange(12).tensor_split(ranks.world())[ranks.rank()]
    losses.supcon(encoder(waveforms[rows], lengths[rows]), labels[rows]).backward()
    ranks.sum_gradients(encoder.parameters())
    found = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    return torch.cat([one.flatten() for one in found])


def work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.save({name: gradient(name) for name in TRAINED}, Path(folder) / f"{rank}.found")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two() -> Iterator[dict[str, Any]]:
    """The gradient of each architecture that two real processes have together."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        multiprocessing.get_context("forkserver").set_forkserver_preload(["audioconfit.pairtune"])
        multiprocessing.start_processes(work, (2, port, folder), 2, start_method="forkserver")
        yield torch.load(Path(folder) / "1.found")


@pytest.mark.parametrize("architecture", TRAINED)
def test_two_ranks_have_the_gradient_of_one(architecture: str, of_two: dict[str, Any]) -> None:
    expected = gradient(architecture)
    assert (of_two[architecture] - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_batch_cut_to_the_memory_has_the_gradient_of_the_whole(architecture: str) -> None:
    encoder = made(architecture).double().train()
    batch = Batch(noise(12, 6_000).double(), torch.tensor([6_000, 4_000, 5_000] * 4), torch.arange(12) // 3)
    found = []
    for rows in (12, 5):
        encoder.zero_grad()
        caching.backward(lambda piece: encoder(piece.waveforms, piece.lengths), losses.supcon, batch, micro_batch=rows)
        of_all = [parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None]
        found.append(torch.cat(of_all).clone())
    assert (found[1] - found[0]).norm() / found[0].norm() < 1e-5


def trained(architecture: str, checkpoint: Path, *, stop_at: int | None = None) -> Encoder:
    encoder = made(architecture)
    how = Settings(lr=1e-3, epochs=2, seed=0, checkpoint=checkpoint, report=lambda epoch, metrics: epoch != stop_at)
    pairtune.train(encoder, tones(), how)
    return encoder


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(architecture: str, tmp_path: Path) -> None:
    undisturbed = trained(architecture, tmp_path / "whole.pt").state_dict()
    trained(architecture, tmp_path / "run.pt", stop_at=1)
    resumed = trained(architecture, tmp_path / "run.pt").state_dict()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
