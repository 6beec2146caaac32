"""Memory: how much of it this process may still take, on the CPU or on a GPU that it shares, and which errors say that
it has run out.
"""

import os
import re
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ENDLESS = 2**60  # bytes; what no limit amounts to
# Of each process on a GPU beside what torch allocates: CUDA's context, cuBLAS' and cuDNN's code.
CONTEXT_BYTES = 1 << 30
# What torch says where CUDA or a library of NVIDIA could not allocate, under other names than OutOfMemoryError. Where
# there is no room for its handle, cuBLAS says that it is not initialised.
EXHAUSTED = re.compile(
    r"CUDA error: out of memory|(CUBLAS|CUDNN|CUFFT|CUSOLVER)_\w*ALLOC\w*_FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"
)
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: a GPU's own; else the machine's, or what a container or `ulimit` leaves of it."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device)
        free = min(torch.cuda.mem_get_info(device)[0], limit_bytes(device) - reserved)
        return max(0, free + reserved - torch.cuda.memory_allocated(device))
    return max(0, min(_of_machine(), _of_container(), _of_process()))


def limit_bytes(device: torch.device) -> int:
    """What torch may allocate on a GPU in this process, all told: the whole of it, or a share."""
    fraction = torch.cuda.get_per_process_memory_fraction(_index(device))
    return int(fraction * torch.cuda.get_device_properties(device).total_memory)


def share(fraction: float, device: torch.device | str = "cuda") -> None:
    """Let this process have no more than a fraction of the GPU, so that as many as share it find room side by side.
    More is then an OutOfMemoryError here and not in a neighbour.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(torch_fraction(fraction, total), _index(torch.device(device)))


def _index(device: torch.device) -> int:
    """What torch's calls about a share want: they refuse "cuda" without a number."""
    return torch.cuda.current_device() if device.index is None else device.index


def torch_fraction(fraction: float, total: int) -> float:
    """What torch may allocate of a GPU of `total` bytes: the share less CUDA's own, and at least half of the share."""
    if fraction >= 1:
        return 1.0
    return max(fraction - CONTEXT_BYTES / total, fraction / 2)


def described(device: torch.device) -> str:
    """What decides how many rows fit: the kind of device, and on a GPU how much of it this process may take."""
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.get_device_name(device)}, {limit_bytes(device)} bytes"


def ran_out(error: BaseException) -> bool:
    """Whether the error says that a GPU's memory did not suffice, in torch's words or in those of what it calls."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and EXHAUSTED.search(str(error)) is not None


def _of_machine() -> int:
    """Where the system does not say what is free: half of what there is, and where it does not say that, nothing, so
    that nothing is held.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        pages = getattr(os, "sysconf_names", {}).get("SC_PHYS_PAGES")
        return 0 if pages is None else os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") // 2
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return ENDLESS


def _of_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    for most, used in CGROUPS:
        try:
            return int((root / most).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return ENDLESS


def _of_process() -> int:
    if resource is None or not Path("/proc/self/status").exists():
        return ENDLESS
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    limits = ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData"))
    left = [
        resource.getrlimit(limit)[0] - int(status[name].split()[0]) * 1024
        for limit, name in limits
        if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY
    ]
    return min(left, default=ENDLESS)
