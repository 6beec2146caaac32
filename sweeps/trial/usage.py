"""Usage: what a trial takes of the machine it runs on, under the names that MLflow shows among system metrics."""

import resource
import statistics
from dataclasses import dataclass, field

import torch

from audioconfit.clock import Clock

SHARE = "system/{phase}_share"
SPEED = "system/clips_per_second"
MEGABYTE = 1024**2


@dataclass
class Usage:
    """Of one trial, from the moment it is made. `clock`: where its time goes."""

    clock: Clock = field(default_factory=Clock)
    gpu_use: list[float] = field(default_factory=list)  # per cent, as it was asked

    def __post_init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # the slot has served other trials

    def look(self) -> None:
        """Asks for the GPU's use just now, which costs a millisecond."""
        if torch.cuda.is_available() and (use := _gpu_use()) is not None:
            self.gpu_use.append(use)

    def numbers(self, *, audio_seconds: float, trained_seconds: float) -> dict[str, float]:
        """Up to now. `audio_seconds`: of stage 1; `trained_seconds`: what it took here, 0 where it was stored.

        The process' memory is the most that the slot has had so far, for it has served other trials.
        """
        used = {SHARE.format(phase=phase): share for phase, share in self.clock.shares().items()}
        used["system/slot_peak_memory_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            used["system/peak_gpu_memory_megabytes"] = torch.cuda.max_memory_allocated() / MEGABYTE
        if self.gpu_use:
            used["system/gpu_use_percent"] = statistics.fmean(self.gpu_use)
        if trained_seconds:
            used["system/audio_seconds_per_second"] = audio_seconds / trained_seconds
        if (clips := self.clock.clips_per_second()) is not None:
            used[SPEED] = clips
        return used


def _gpu_use() -> float | None:
    """Per cent of the last moments in which the GPU computed, for anybody. None: NVML does not say."""
    try:
        return float(torch.cuda.utilization())
    except Exception:  # no NVML, another driver, a slice of a GPU: a trial does not fail for it
        return None
