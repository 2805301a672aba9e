"""`start_method="fork"`: a zygote that is a copy of the kernel, and the check that a copy of it can live.

A fork copies one thread. What other threads of the kernel were doing (CUDA, XLA) stops in the middle in the copy, and
whoever waits for it hangs. A probe child finds that out before the launch. torch's pool for CPU operators does no harm:
it belongs to the thread that used it, and the copy is made by another one.
"""

from __future__ import annotations

import _imp
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import IO

from nbaccel.errors import PlanError
from nbaccel.launch.zygote import Process, Zygote
from nbaccel.machine.tpu_software import xla_is_awake

_PROBE_PATIENCE_S = 3.0
_IMPORTS_PATIENCE_S = 10.0
"""A launch from within an import would wait for ever for that one."""
_DEVICES = {
    "/dev/nvidia": "CUDA",
    "/dev/dxg": "CUDA",
    "/dev/kfd": "ROCm",
    "/dev/accel": "the TPU",
    "/dev/vfio": "the TPU",
}
_SUSPECTS = ("torch", "torch_xla", "jax", "tensorflow", "cupy", "numba.cuda")


class _Forked:
    """A forked process, waited for as one of `subprocess`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        with suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return 0


class ForkedZygote(Zygote):
    """A zygote for one launch: the kernel as it is now, which then forks the workers and watches over them."""

    def _begin(self, channel: int, alive: int, log: IO[bytes], kernels: Sequence[int]) -> Process:
        kernel = os.getpid()
        pid = _fork()
        if pid == 0:
            for descriptor in kernels:  # else the copy would keep itself alive
                os.close(descriptor)
            # by name: the kernel's side of nbaccel does not know the workers' side
            import_module("nbaccel.worker.zygote").main_after_fork(channel, alive, kernel, log.fileno())
        return _Forked(pid)


def _fork() -> int:
    """Fork at a moment when no other thread is in the middle of an import.

    Its copy would hold the module's lock for ever, and whoever asks for the module in the child would wait for it.
    """
    deadline = time.monotonic() + _IMPORTS_PATIENCE_S
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: that is what the probe is for
        while True:
            _imp.acquire_lock()  # from here on no import can begin
            try:
                if not _is_importing() or time.monotonic() > deadline:
                    return os.fork()
            finally:
                _imp.release_lock()
            time.sleep(0.002)


def _is_importing() -> bool:
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False) for module in list(sys.modules.values())
    )


def check_fork() -> None:
    """Raises PlanError if a copy of this process would not work, and says what stands in the way."""
    if xla_is_awake(sys.modules):
        raise PlanError(
            "start_method='fork'",
            "torch_xla is at work in the kernel, and a forked process has none of its threads.",
            "Use start_method='zygote', which is safe whatever the kernel did, or restart the kernel.",
        )
    device = _open_device()
    if device is not None:
        loaded = [name for name in _SUSPECTS if name in sys.modules]
        woken = f"; of what the kernel has imported, {' or '.join(loaded)} may have woken it" if loaded else ""
        raise PlanError(
            "start_method='fork'",
            f"{device} is in use in the kernel{woken}. A forked process cannot use it.",
            "Use start_method='zygote', which is safe whatever the kernel did, or restart the kernel.",
        )
    if "torch" in sys.modules and not _in_new_thread(_probe_lives):
        raise PlanError(
            "start_method='fork'",
            "in a copy of the kernel torch's operators do not come back: they wait for threads (say OpenMP's) that "
            "have run in the kernel and do not exist in the copy.",
            "Use start_method='zygote', which is safe whatever the kernel did, or restart the kernel.",
        )


def _open_device() -> str | None:
    """The device that some library in this process has opened, None if there is none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA"
    folder = "/proc/self/fd"
    for number in os.listdir(folder) if os.path.isdir(folder) else ():
        with suppress(OSError):
            target = os.readlink(f"{folder}/{number}")
            for prefix, name in _DEVICES.items():
                if target.startswith(prefix):
                    return name
    return None


def _in_new_thread(function: Callable[[], bool]) -> bool:
    """As the launch will fork: a thread that has used torch itself has a pool that its copy would wait for."""
    with ThreadPoolExecutor(1) as one:
        return one.submit(function).result()


def _probe_lives() -> bool:
    """Whether torch's operators come back in a copy of this process."""
    read, write = os.pipe()
    pid = _fork()
    if pid == 0:
        _try_operators(write)
    os.close(write)
    poll = select.poll()
    poll.register(read, select.POLLIN)
    lives = bool(poll.poll(_PROBE_PATIENCE_S * 1000)) and os.read(read, 1) == b"!"
    os.close(read)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return lives


def _try_operators(write: int) -> None:
    """Runs in the probe and never returns: operators large enough to be shared out among threads."""
    try:
        torch = sys.modules["torch"]
        weight = torch.ones(256, 256, requires_grad=True)
        (torch.ones(1024, 256) @ weight).exp().sum().backward()
        os.write(write, b"!")
    finally:
        os._exit(0)
