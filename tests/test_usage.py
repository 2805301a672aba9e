"""What processes and GPUs use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from nbaccel.machine import Gpu
from nbaccel.machine.usage import GpuGauge, GpuUse, ProcessGauge

BUSY = "import sys, time\nblob = bytearray(b'x' * 50_000_000)\nprint('ready', flush=True)\nwhile True: pass"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


def test_a_process_is_seen_with_all_below_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, process_group=0) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            gauge = ProcessGauge()
            first = gauge.read([parent.pid])[parent.pid]
            assert first.cpu_percent is None
            assert first.memory_bytes > 50_000_000
            later = first
            while not later.cpu_percent:  # the loop of the child, which does nothing else
                later = gauge.read([parent.pid])[parent.pid]
            assert later.cpu_percent > 0
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert gauge.read([parent.pid]) == {}


class FakeError(Exception):
    pass


def nvml_like(opened: list[str]) -> Any:
    """As pynvml answers: of its second GPU a slice is used, which tells no utilisation; the third one is broken."""

    def memory(handle: str) -> Any:
        if handle == "index 2":
            raise FakeError
        return SimpleNamespace(used=7, total=10)

    def utilisation(handle: str) -> Any:
        if handle.startswith("MIG"):
            raise FakeError
        return SimpleNamespace(gpu=42)

    return SimpleNamespace(
        NVMLError=FakeError,
        nvmlInit=lambda: opened.append("init"),
        nvmlShutdown=opened.pop,
        nvmlDeviceGetHandleByIndex="index {}".format,
        nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=utilisation,
    )


def test_gpus_tell_what_they_can() -> None:
    opened: list[str] = []
    gpus = (Gpu(0, "0"), Gpu(1, "MIG-1"), Gpu(2, "2"))
    gauge = GpuGauge(gpus, nvml_like(opened))
    assert opened == ["init"]
    assert gauge.read() == (GpuUse(gpus[0], 42.0, 7, 10), GpuUse(gpus[1], None, 7, 10))
    gauge.close()
    gauge.close()
    assert opened == []
    assert gauge.read() == ()


def test_without_gpus_nothing_is_opened() -> None:
    opened: list[str] = []
    assert GpuGauge((), nvml_like(opened)).read() == ()
    assert opened == []
    assert GpuGauge.of_run("", 2, {}).read() == ()
