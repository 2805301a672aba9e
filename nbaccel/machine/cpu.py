"""Cores and memory that this process may use: affinity, cgroup limits, physical cores.

Everything is read from files where there are files: importing psutil costs more than the whole probe may take.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path


def affine_cpus() -> frozenset[int]:
    """Numbers of the logical CPUs that this process may run on."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    if sys.version_info >= (3, 13):
        return frozenset(cpus[: os.process_cpu_count()])  # PYTHON_CPU_COUNT may ask for fewer
    return frozenset(cpus)


def usable_cores(root: Path, cpus: Collection[int]) -> int:
    """How many of `cpus` can be kept busy: the cgroup quota, rounded down because a core too many is throttled."""
    quota = cpu_quota(root)
    return len(cpus) if quota is None else max(1, min(len(cpus), int(quota)))


def physical_cores(root: Path, cpus: Collection[int]) -> int:
    """Physical cores behind the logical CPUs `cpus`, whose hyperthreads count once."""
    siblings = {_siblings_of(root / f"sys/devices/system/cpu/cpu{number}/topology") for number in cpus}
    if "" not in siblings:
        return len(siblings)
    import psutil

    return min(len(cpus), psutil.cpu_count(logical=False) or len(cpus))


def own_cpus(root: Path, cpus: Collection[int], local_rank: int, local_world_size: int) -> frozenset[int]:
    """One worker's share of the logical CPUs: neighbours, and hyperthreads of one core together.

    More workers than CPUs: several share one.
    """

    def neighbours_first(number: int) -> tuple[int, str, int]:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        package = _read(topology / "physical_package_id")
        return (int(package) if package.isdigit() else 0, _siblings_of(topology).zfill(12), number)

    ordered = sorted(cpus, key=neighbours_first)
    start = local_rank * len(ordered) // local_world_size
    end = (local_rank + 1) * len(ordered) // local_world_size
    return frozenset(ordered[start:end] or [ordered[local_rank % len(ordered)]])


def cpu_quota(root: Path) -> float | None:
    """Cores' worth of time that the cgroups allow (the tightest of them counts), None without a limit."""
    quotas = (_quota_in(folder) for folder in _cgroup_folders(root, "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_bytes(root: Path) -> int:
    """Main memory, or what the cgroups allow of it."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = (_read(folder / name) for folder in _cgroup_folders(root, "memory") for name in names)
    return min([_total_memory(root), *(int(text) for text in texts if text.isdigit())])


def _siblings_of(topology: Path) -> str:
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")


def _quota_in(folder: Path) -> float | None:
    limit, _, period = _read(folder / "cpu.max").partition(" ")
    if not limit:
        limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if limit.isdigit() and period.isdigit():  # "max" and "-1" mean no limit
        return int(limit) / int(period)
    return None


def _total_memory(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    import psutil

    return psutil.virtual_memory().total


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and its ancestors for a controller, version 2 and 1.

    In a container the path may name folders that only the host sees; the walk up ends at the container's own.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controller if controllers else mounted
        folder = base / path.lstrip("/")
        yield folder
        while folder != base:
            folder = folder.parent
            yield folder


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
