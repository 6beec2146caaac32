"""Where the loop makes the CPU wait for the GPU: at the end of an epoch, and nowhere within."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import material
import pytest
import torch

from audioconfit import encoders, features, finetune, pairtune, training
from audioconfit.training import Settings

pytestmark = [pytest.mark.gpu, pytest.mark.cuda_only]
EPOCHS = 4


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts file and line of each blocking call within, once `start` has been counted."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            # "called a synchronizing CUDA operation"; once a process torch also says that the mode is a prototype.
            blocking = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
            found.update(f"{Path(warning.filename).name}:{warning.lineno}" for warning in blocking)


def waits_of_training(method: Any, name: str, seconds: tuple[float, float], **settings: Any) -> Counter[str]:
    """Of the epochs behind the first."""
    device = torch.device("cuda")

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        torch.cuda.set_sync_debug_mode("warn")  # from the end of the first epoch on
        return True

    batches = material.batches(device, seconds=seconds)
    with waits() as found:
        method.train(
            encoders.load(name),
            batches,
            Settings(
                report=report,
                **{"lr": 1e-4, "epochs": EPOCHS, "seed": 0, "device": device, "micro_batch": None} | settings,
            ),
        )
    print(f"\n{name}, {seconds}, {settings}: {dict(found) or 'no waiting'}; {len(batches)} steps an epoch")
    return found


def of(file: str, found: Counter[str]) -> int:
    return sum(count for place, count in found.items() if place.startswith(f"{file}:"))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"micro_batch": 3}], ids=str)
@pytest.mark.parametrize("method", [pairtune, finetune])
@pytest.mark.parametrize("name", ["wav2vec2-random", "hubert-random", "wavlm-random"])
@pytest.mark.parametrize("seconds", [(0.6, 0.6), (0.2, 0.6)], ids=["full", "padded"])
def test_the_cpu_waits_once_an_epoch(seconds: tuple[float, float], name: str, method: Any, settings: dict) -> None:
    found = waits_of_training(method, name, seconds, **settings)
    assert of(Path(training.__file__).name, found) == EPOCHS - 1, "reading the losses of an epoch is one copy"
    assert found.total() == EPOCHS - 1


def test_extraction_waits_only_for_what_it_reads_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCH_SECONDS", 4.0)
    waveforms, clips, classes = material.clips(seconds=(0.2, 0.9))
    encoder = encoders.load("wavlm-random").cuda()
    with waits() as found:
        torch.cuda.set_sync_debug_mode("warn")
        features.extract(encoder, waveforms, clips, classes=classes, chunk_seconds=0.5, device="cuda")
    print(f"\n{dict(found)}")
    assert {place.partition(":")[0] for place in found} == {"features.py"}
    assert len(found) == 1, "more than the line that reads the embeddings"
