"""What processes and GPUs use just now; read once a second or so, nothing is initialised on a device."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nbaccel.machine.gpu import probe_gpus
from nbaccel.machine.machine import Gpu


@dataclass(frozen=True)
class ProcessUse:
    """What a process and all below it use.

    Attributes:
        cpu_percent: of one core, since the last look; None at the first.
        memory_bytes: memory of their own, not shared with the processes that they were forked from.
    """

    cpu_percent: float | None
    memory_bytes: int


@dataclass(frozen=True)
class GpuUse:
    """What all who compute on a GPU use of it.

    Attributes:
        gpu: which.
        percent: of the time in which it was busy; None where it does not tell (slices of a GPU).
        memory_bytes: of its memory.
        total_bytes: size of its memory.
    """

    gpu: Gpu
    percent: float | None
    memory_bytes: int
    total_bytes: int


class ProcessGauge:
    """Looks at processes, again and again."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, float]] = {}

    def read(self, pids: Iterable[int]) -> dict[int, ProcessUse]:
        """What each process uses; those that are gone are left out."""
        found: dict[int, ProcessUse] = {}
        for pid in pids:
            with suppress(psutil.Error):
                found[pid] = self._use_of(psutil.Process(pid))
        return found

    def _use_of(self, process: psutil.Process) -> ProcessUse:
        cpu_s, memory, now = 0.0, 0, time.monotonic()
        for one in (process, *_below(process)):
            with suppress(psutil.Error):
                times = one.cpu_times()
                cpu_s += times.user + times.system
                memory += _own_memory(one)
        before_s, at = self._before.get(process.pid, (cpu_s, now))
        self._before[process.pid] = (cpu_s, now)
        percent = max(0.0, cpu_s - before_s) / (now - at) * 100 if now > at else None
        return ProcessUse(percent, memory)


def _below(process: psutil.Process) -> list[psutil.Process]:
    """All that it has started, and they; by the kernel's own list where there is one: psutil looks at every process."""
    try:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return process.children(recursive=True)
    found = []
    for pid in listed:
        with suppress(psutil.Error):
            child = psutil.Process(int(pid))
            found += [child, *_below(child)]
    return found


def _own_memory(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "uss", full.rss))


class GpuGauge:
    """Looks at GPUs by NVML; at none where NVML or the driver is not there.

    Args:
        gpus: which.
        nvml: the module pynvml, or one like it.
    """

    def __init__(self, gpus: Sequence[Gpu], nvml: Any = None) -> None:
        self._nvml = nvml
        self._handles: list[tuple[Gpu, Any]] = []
        if nvml is not None and gpus:
            self._open(gpus)

    @classmethod
    def of_run(cls, visible: str | None, count: int, environ: Mapping[str, str] | None = None) -> GpuGauge:
        """For the GPUs of a run.

        Args:
            visible: the run's CUDA_VISIBLE_DEVICES; None: as in the environment.
            count: how many of them it uses.
            environ: left out: `os.environ`.
        """
        given = dict(os.environ if environ is None else environ)
        if visible is not None:
            given["CUDA_VISIBLE_DEVICES"] = visible
        gpus = probe_gpus(given, Path("/"))[:count]
        try:
            import pynvml
        except ImportError:
            return cls(())
        return cls(gpus, pynvml)

    def _open(self, gpus: Sequence[Gpu]) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlInit()
            for gpu in gpus:
                self._handles.append((gpu, _handle(self._nvml, gpu)))

    def read(self) -> tuple[GpuUse, ...]:
        """What is used of each; a GPU that does not answer is left out."""
        found = []
        for gpu, handle in self._handles:
            with suppress(self._nvml.NVMLError):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                found.append(GpuUse(gpu, self._percent(handle), int(memory.used), int(memory.total)))
        return tuple(found)

    def _percent(self, handle: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        """Let NVML go."""
        if self._handles:
            self._handles = []
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def _handle(nvml: Any, gpu: Gpu) -> Any:
    if gpu.visible_id.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(gpu.visible_id))
    return nvml.nvmlDeviceGetHandleByUUID(gpu.visible_id)
