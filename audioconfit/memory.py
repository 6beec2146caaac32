"""Memory: how much of it this process may still take, on the CPU or on a GPU."""

import os
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ENDLESS = 2**60  # bytes; what no limit amounts to
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: a GPU's own; else the machine's, or what a container or `ulimit` leaves of it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return max(0, min(_of_machine(), _of_container(), _of_process()))


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
