"""What stands in the way of a launch, and what to do about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nbaccel.launch.checkup.findings import Findings
from nbaccel.machine.words import in_gib

_MIB = 1 << 20
_OLDEST_TORCH = (2, 4)
_WORKER_BYTES = 512 * _MIB
"""A worker with torch, before any model or data."""
_SMALL_SHARED_MEMORY_BYTES = 256 * _MIB
"""Containers have 64 MiB unless told otherwise."""
_SMALL_TEMPORARY_BYTES = 200 * _MIB
_FEW_OPEN_FILES = 1024


@dataclass(frozen=True)
class Problem:
    """Something that stands in the way.

    Attributes:
        text: what is wrong.
        remedy: what to do.
    """

    text: str
    remedy: str


def problems(found: Findings) -> list[Problem]:
    """All problems, the worst first."""
    return [problem for look in _LOOKS for problem in look(found)]


def _no_plan(found: Findings) -> Iterator[Problem]:
    if found.error:
        yield Problem(found.error, "Nothing can be launched before this is settled.")


def _torch(found: Findings) -> Iterator[Problem]:
    installed = found.versions.get("torch", "")
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if not installed:
        yield Problem("torch is not installed.", "Run: pip install 'nbaccel[torch]'")
    elif numbers is not None and (int(numbers[1]), int(numbers[2])) < _OLDEST_TORCH:
        yield Problem(f"torch {installed} is too old.", "Run: pip install --upgrade 'torch>=2.4'")


def _gpus(found: Findings) -> Iterator[Problem]:
    if found.machine.gpu_obstacle is not None:
        yield Problem(found.machine.gpu_obstacle.text, found.machine.gpu_obstacle.remedy)


def _hidden_gpus(found: Findings) -> Iterator[Problem]:
    if found.hidden_gpus:
        yield Problem(
            f"CUDA_VISIBLE_DEVICES hides all of this machine's GPUs ({found.hidden_gpus}).",
            "Unset it, or name GPUs that exist; gpu_ids chooses among the visible ones.",
        )


def _tpu(found: Findings) -> Iterator[Problem]:
    if found.machine.tpu_chips and not (found.versions.get("torch_xla") or found.versions.get("torch-tpu")):
        yield Problem(
            f"There are {found.machine.tpu_chips} TPU chips, but no torch_xla.", "Run: pip install 'nbaccel[xla]'"
        )


def _memory(found: Findings) -> Iterator[Problem]:
    workers = 0 if found.plan is None else found.plan.local_world_size
    needed = workers * _WORKER_BYTES
    if needed > found.free_memory_bytes:
        yield Problem(
            f"{workers} workers take about {in_gib(needed)} before any model or data; "
            f"{in_gib(found.free_memory_bytes)} of memory are free.",
            "Start fewer workers (--num-processes), or end other programs.",
        )


def _shared_memory(found: Findings) -> Iterator[Problem]:
    free = found.shared_memory_bytes
    if free is not None and free < _SMALL_SHARED_MEMORY_BYTES:
        yield Problem(
            f"/dev/shm has {free // _MIB} MiB free: data loaders with workers hand their batches over in it.",
            "Start the container with more (docker run --shm-size=8g), or use num_workers=0.",
        )


def _disk(found: Findings) -> Iterator[Problem]:
    if found.temporary_bytes < _SMALL_TEMPORARY_BYTES:
        yield Problem(
            f"The temporary folder has {found.temporary_bytes // _MIB} MiB free.",
            "Make room, or name another folder in TMPDIR.",
        )
    for name, folder in found.unwritable.items():
        yield Problem(
            f"{folder} ({name}) cannot be written to.",
            "Set project_dir to another folder." if name == "project_dir" else "Set HF_HOME to another folder.",
        )


def _open_files(found: Findings) -> Iterator[Problem]:
    if found.most_open_files < _FEW_OPEN_FILES:
        yield Problem(
            f"A process may have {found.most_open_files} files open: data loaders need more.", "Run: ulimit -n 65536"
        )


def _threads(found: Findings) -> Iterator[Problem]:
    plan, cores = found.plan, found.machine.usable_cores
    if plan is not None and plan.local_world_size * plan.threads_per_worker > cores and plan.threads_per_worker > 1:
        yield Problem(
            f"{plan.local_world_size} workers with {plan.threads_per_worker} CPU threads each share {cores} cores.",
            "Leave num_cpu_threads_per_process out, or lower it.",
        )


_LOOKS: tuple[Callable[[Findings], Iterator[Problem]], ...] = (
    _no_plan, _torch, _gpus, _hidden_gpus, _tpu, _memory, _shared_memory, _disk, _open_files, _threads,
)  # fmt: skip
