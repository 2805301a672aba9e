"""The kernel's side of the zygote: start it in the background, keep it, ask it for workers, tell it what to import."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import IO, Protocol

from nbaccel.errors import LaunchError
from nbaccel.launch.interpreter import fresh_interpreter, is_installed
from nbaccel.launch.process import ProcessHandle
from nbaccel.wire.channel import Channel
from nbaccel.wire.ends import WorkerEnds
from nbaccel.wire.messages import Fork, LeftOut, Preload, TellLeftOut

_LOG_CHARACTERS = 4000
_ANSWER_PATIENCE_S = 1.0


_MUST_BE = {"OPENBLAS_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
"""What would leave threads running when the zygote forks: OpenBLAS, and what torch loads for devices (torch_tpu)."""
_SETTINGS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Memory in huge pages has less to copy at a fork: measured, a launch of two workers takes 42 ms instead of 49."""


class Process(Protocol):
    """A started process."""

    pid: int

    def wait(self) -> int: ...


class Zygote:
    """One running zygote process, held by a thread of its own.

    The thread must live as long as the process: the system ties the zygote's life to the thread that started it.
    """

    def __init__(self) -> None:
        self._channel: Future[Channel] = Future()
        self._last_words = ""
        self._reading = threading.Lock()
        self._asking = threading.Lock()
        self._followed: set[str] = set()
        self._seen = 0
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="nbaccel-zygote-")  # noqa: SIM115 - lives as long as self
        self.pid: int | None = None
        self.ended = False
        threading.Thread(target=self._keep, name="nbaccel-zygote", daemon=True).start()

    def _keep(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process, alive, channel = self._start()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the channel
            self.ended = True
            self._channel.set_exception(LaunchError(f"the zygote could not be started: {error}"))
            return
        self.pid = process.pid
        self._channel.set_result(channel)
        process.wait()
        self.ended = True
        os.close(alive)
        self.log()
        with self._reading:
            self._log.close()

    def _start(self) -> tuple[Process, int, Channel]:
        with ExitStack() as theirs, ExitStack() as mine:
            here, there = socket.socketpair()
            mine.callback(here.close)
            theirs.callback(there.close)
            watched, alive = os.pipe()
            mine.callback(os.close, alive)
            theirs.callback(os.close, watched)
            channel = Channel(here)
            process = self._begin(there.fileno(), watched, self._log, (here.fileno(), channel.fileno(), alive))
            mine.pop_all()
        return process, alive, channel

    def _begin(self, channel: int, alive: int, log: IO[bytes], kernels: Sequence[int]) -> Process:
        """Start the process: here a fresh interpreter, free of whatever the kernel has done.

        Args:
            channel: its end of the channel.
            alive: its end of a pipe that ends with the kernel.
            log: where it writes.
            kernels: descriptors that must stay the kernel's alone.
        """
        return subprocess.Popen(
            fresh_interpreter("nbaccel.worker.zygote", (channel, alive, os.getpid())),
            pass_fds=(channel, alive),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # out of the kernel's group: a graceful restart does not wait for it
            env=_SETTINGS | os.environ | _MUST_BE,
        )

    def fork(self, ends: WorkerEnds, command: tuple[str, ...] = ()) -> ProcessHandle:
        """Ask for one worker; returns before it exists. Raises OSError when the zygote is gone.

        Args:
            ends: the descriptors that the worker is born with.
            command: what to execute in it; left out: it goes on as the copy of the zygote that it is.
        """
        channel = self._channel.result()
        status, report = os.pipe()
        try:
            channel.send(Fork(command), (*ends, report))
        except OSError:
            os.close(status)
            raise
        finally:
            os.close(report)
        return ProcessHandle(status)

    def follow(self, modules: Mapping[str, ModuleType]) -> None:
        """Tell the zygote which installed modules the kernel has imported since it was last told."""
        if len(modules) == self._seen or not self._channel.done() or self.ended:
            return
        self._seen = len(modules)
        new = [name for name in installed_modules(modules) if name not in self._followed]
        if not new:
            return
        self._followed.update(new)
        self._channel.result().send(Preload(tuple(new), os.environ | _MUST_BE))

    def import_ahead(self, modules: Sequence[str]) -> None:
        """Let the zygote import these while idle, if they leave it fit to fork."""
        new = [name for name in modules if name not in self._followed]
        if not new or not self._channel.done() or self.ended:
            return
        self._followed.update(new)
        with suppress(OSError):  # it has just ended: there is nothing to prepare
            self._channel.result().send(Preload(tuple(new), os.environ | _MUST_BE))

    def left_out(self) -> dict[str, str]:
        """Modules of the kernel that it does not import ahead, and why; empty while it is busy importing others."""
        if not self._channel.done() or self.ended:
            return {}
        channel = self._channel.result()
        with self._asking, suppress(OSError, EOFError):
            channel.send(TellLeftOut())
            poll = select.poll()
            poll.register(channel.fileno(), select.POLLIN)
            while poll.poll(_ANSWER_PATIENCE_S * 1000):
                answer, _ = channel.receive()
                if isinstance(answer, LeftOut) and not channel.ready():  # the last one: an earlier one may come late
                    return dict(answer.modules)
        return {}

    def log(self) -> str:
        """The end of what the zygote process has printed."""
        with self._reading:
            if not self._log.closed:
                self._log.seek(0)
                self._last_words = self._log.read().decode(errors="replace")[-_LOG_CHARACTERS:]
            return self._last_words

    def stop(self) -> None:
        """Close the channel; the zygote ends, and all below it."""
        if self._channel.done() and self._channel.exception() is None:
            self._channel.result().close()


_KERNELS_OWN = frozenset(
    {"ipykernel", "zmq", "tornado", "jupyter_client", "jupyter_core", "debugpy", "comm", "ipyparallel"}
)
"""Machinery of the kernel itself: workers have no use for it, and some of it leaves threads."""


def installed_modules(modules: Mapping[str, ModuleType]) -> list[str]:
    """Names of those modules that come from an installed package, in the order of their import; never local ones."""
    found = []
    for name, module in list(modules.items()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if not isinstance(origin, str) or not is_installed(origin) or module.__name__ != name:
            continue
        if _KERNELS_OWN.isdisjoint(origin.split(os.sep)):
            found.append(name)
    return found


_lock = threading.Lock()
_shared: tuple[int, Zygote] | None = None


def shared() -> Zygote:
    """This process's zygote; starts one, in the background, if there is none or the last one is gone."""
    global _shared
    with _lock:
        if _shared is None or _shared[0] != os.getpid() or _shared[1].ended:
            _shared = (os.getpid(), Zygote())
        return _shared[1]


def current() -> Zygote | None:
    """This process's zygote if it has one."""
    return _shared[1] if _shared is not None and _shared[0] == os.getpid() and not _shared[1].ended else None


def forget(zygote: Zygote) -> None:
    """The next launch shall start another one: this one turned out to be gone."""
    global _shared
    with _lock:
        if _shared is not None and _shared[1] is zygote:
            _shared = None
    zygote.stop()
