"""What the zygote imports ahead: what every worker needs, then what the kernel has imported.

A module that wakes a device or leaves threads behind would make every later fork unsafe. So the kernel's modules are
first imported in a forked child that says which of them behave; only those are imported here.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import select
import sys
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable

_SECOND_STAGE = (
    # the first optimizer imports torch._dynamo: 800 modules, 0.6 s and 100 MB in every worker unless it is here
    "torch._dynamo",
    "torch.nn.parallel.distributed",
    "torch.distributed.distributed_c10d",
    "torch.utils.data",
    "torch.optim.lr_scheduler",
    "nbaccel.runtime.accelerator",
)


def first_stage() -> None:
    """What a worker cannot do without; before the first fork."""
    from nbaccel.worker import serve, shell  # noqa: F401 - imported for the workers

    shell.make_shell()
    calm()


def take_over_kernel() -> None:
    """In a copy of the kernel: the same for workers that go on with its modules and its names."""
    from nbaccel.worker import serve, shell  # noqa: F401 - imported for the workers

    shell.make_shell_of_kernel()
    calm()


def calm() -> None:
    """Make ready for forks: every page that a worker touches is copied, so it should find little to do."""
    # what imports registered here is not the workers' to clean up: it would cost each of them 30 ms at its exit
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined] # a worker's first one does it again
    gc.freeze()


class Ahead:
    """Modules waiting to be imported, one step at a time so that forks are never kept waiting for long."""

    def __init__(self, modules: Iterable[str] = _SECOND_STAGE) -> None:
        self._trusted: deque[str] = deque(modules)
        self._untried: list[str] = []
        self._probe: _Probe | None = None
        self.is_wanted = True
        """Whether forks go on with what is imported here; fresh interpreters import for themselves."""
        self.left_out: dict[str, str] = {}

    def add(self, modules: Iterable[str]) -> None:
        """Modules that the kernel has imported."""
        known = {*sys.modules, *self._trusted, *self._untried, *self.left_out}
        self._untried += [name for name in modules if name not in known]

    def has_work(self) -> bool:
        return self.is_wanted and (bool(self._trusted) or (self._probe is None and bool(self._untried)))

    def descriptors(self) -> list[int]:
        return [] if self._probe is None else [self._probe.descriptor]

    def is_ready(self, ready: Container[object]) -> bool:
        return self._probe is not None and self._probe.descriptor in ready

    def step(self, in_child: Callable[[], None]) -> None:
        """Read what the probe says, or import one module, or start a probe of the untried ones."""
        if self._probe is not None and (not self._trusted or self._probe.has_news()):
            self._follow_probe(self._probe)
        elif self._trusted:
            _import_quietly(self._trusted.popleft())
            if not self._trusted:
                calm()
        elif self._untried:
            self._try_out(in_child)

    def _try_out(self, in_child: Callable[[], None]) -> None:
        try:
            self._probe = _Probe(self._untried, in_child)
        except OSError as error:  # a limit on processes or memory
            print(f"could not try out what to import ahead: {error}", flush=True)
            self._untried.clear()

    def _follow_probe(self, probe: _Probe) -> None:
        good, bad, ended = probe.read()
        self._trusted += good
        self.left_out |= bad
        if ended:
            self._probe = None
            self._untried = [name for name in self._untried if name not in probe.heard]


class _Probe:
    """A forked child that imports modules and says of each whether it behaves; it ends at the first that does not."""

    def __init__(self, modules: Iterable[str], in_child: Callable[[], None]) -> None:
        self.heard: set[str] = set()
        self._rest = b""
        self._last = ""
        self.descriptor, write = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(self.descriptor)
            os.close(write)
            raise
        if pid == 0:
            in_child()
            os.close(self.descriptor)
            _try_imports(list(modules), write)
        os.close(write)
        os.set_blocking(self.descriptor, False)

    def has_news(self) -> bool:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def read(self) -> tuple[list[str], dict[str, str], bool]:
        """Modules that behave, modules that do not and why, and whether the probe has ended."""
        data = os.read(self.descriptor, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        good: list[str] = []
        bad: dict[str, str] = {}
        for line in lines:
            verdict, _, name = line.decode().partition(" ")
            if verdict == "trying":
                self._last = name
                continue
            self.heard.add(name)
            if verdict == "good":
                good.append(name)
            else:
                bad[name] = verdict
        if not data:
            os.close(self.descriptor)
            if self._last and self._last not in self.heard:  # it died in the middle of an import
                self.heard.add(self._last)
                bad[self._last] = "crashes"
        return good, bad, not data


def _try_imports(modules: list[str], write: int) -> None:
    """Runs in the probe's process and never returns."""
    for name in modules:
        if name in sys.modules:
            os.write(write, f"trying {name}\ngood {name}\n".encode())
            continue
        os.write(write, f"trying {name}\n".encode())
        verdict = _import_quietly(name) or _harm()
        os.write(write, f"{verdict or 'good'} {name}\n".encode())
        if verdict and verdict != "fails":
            break
    os._exit(0)


def _harm() -> str:
    """What an import did to this process that a fork would not survive; empty when nothing."""
    if len(_listed("/proc/self/task")) > 1:
        return "threads"
    if any(_is_device(f"/proc/self/fd/{number}") for number in _listed("/proc/self/fd")):
        return "device"
    return ""


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _is_device(link: str) -> bool:
    try:
        target = os.readlink(link)
    except OSError:
        return False
    return target.startswith(("/dev/nvidia", "/dev/dxg", "/dev/kfd", "/dev/accel", "/dev/vfio"))


def _import_quietly(name: str) -> str:
    """Import a module; says `fails` instead of raising: what the kernel could import may not exist here."""
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - module code may raise anything, SystemExit included
        print(f"could not import {name} ahead: {type(error).__name__}: {error}", flush=True)
        return "fails"
    return ""
