"""The zygote: a warm process that forks workers in milliseconds.

It is a fresh interpreter of one thread that imports torch and IPython and never wakes a device, so that each fork is
safe whatever the kernel did before. It also watches: when the kernel goes, everything below the zygote goes.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from nbaccel.wire.channel import Channel
from nbaccel.wire.ends import STACKS_SIGNAL, WorkerEnds
from nbaccel.wire.messages import Fork, LeftOut, Preload, TellLeftOut
from nbaccel.worker import bootstrap, preload
from nbaccel.worker.guardian import adopt_orphans, end_with_parent, kill_descendants


class Zygote:
    """Serves one kernel: forks on request, reports how workers ended, imports ahead while idle."""

    def __init__(self, channel: Channel, alive: int, wakeup: int, ahead: preload.Ahead) -> None:
        self._channel, self._alive, self._wakeup = channel, alive, wakeup
        self._status: dict[int, int] = {}
        self._ahead = ahead

    def serve(self) -> None:
        """Until the kernel is gone."""
        while True:
            ready = self._wait()
            if self._alive in ready:
                return
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                self._serve_one()
            elif not ready or self._ahead.is_ready(ready):
                self._ahead.step(self._forget_kernel)

    def _wait(self) -> set[int]:
        """Descriptors with news; does not wait while there is something to import ahead."""
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        for descriptor in (self._channel.fileno(), self._alive, self._wakeup, *self._ahead.descriptors()):
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(0 if self._ahead.has_work() else None)}

    def _serve_one(self) -> None:
        message, descriptors = self._channel.receive()
        if isinstance(message, Fork):
            self._ahead.is_wanted = not message.command
            self._fork(message.command, descriptors)
        elif isinstance(message, Preload):
            _take_over(message.environ)
            self._ahead.add(message.modules)
        elif isinstance(message, TellLeftOut):
            self._channel.send(LeftOut(self._ahead.left_out))

    def _fork(self, command: Sequence[str], descriptors: Sequence[int]) -> None:
        *numbers, status = descriptors
        ends = WorkerEnds(*numbers)
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # a limit on processes or memory: the other workers must not suffer from it
            print(f"could not fork a worker: {error}", flush=True)
            _write_number(status, -(error.errno or errno.EAGAIN))
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if pid == 0:
            os.setpgid(0, 0)
            self._forget_kernel()
            os.close(status)
            if command:
                _execute(command, ends)
            bootstrap.run_worker(ends, parent=me)
        for descriptor in ends:
            os.close(descriptor)
        self._status[pid] = status
        with suppress(OSError):  # the child does the same: whoever is first, the group is there before its id is told
            os.setpgid(pid, pid)
        _write_number(status, pid)

    def _forget_kernel(self) -> None:
        """In a fresh child: what belongs to the zygote alone."""
        signal.set_wakeup_fd(-1)
        self._channel.close()
        for descriptor in (self._alive, self._wakeup, *self._status.values()):
            os.close(descriptor)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._status:
                descriptor = self._status.pop(pid)
                _write_number(descriptor, os.waitstatus_to_exitcode(status))
                os.close(descriptor)


def _take_over(environ: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in environ.items() if os.environ.get(name) != value})


def _execute(command: Sequence[str], ends: WorkerEnds) -> None:
    """Become another program that inherits these descriptors; never returns."""
    for descriptor in ends:
        os.set_inheritable(descriptor, True)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(command[0], [",".join(map(str, ends)) if word == "{ends}" else word for word in command])


def _write_number(descriptor: int, number: int) -> None:
    try:
        os.write(descriptor, number.to_bytes(8, "little", signed=True))
    except BrokenPipeError:
        return  # the kernel no longer wants to know


def _end(*_: object) -> None:
    kill_descendants()
    os._exit(0)


def _wakeup_pipe(on_child: Callable[..., None]) -> int:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, on_child)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def main(channel: int, alive: int, kernel: int) -> None:
    """Entry of a fresh interpreter.

    Args:
        channel: descriptor of the zygote's end of the socket pair.
        alive: descriptor of a pipe whose other end only the kernel holds.
        kernel: the kernel's process id.
    """
    try:
        gc.disable()  # imports keep what they make: looking for garbage in it would cost a fifth of their time
        wakeup = _take_place(kernel)
        preload.first_stage()
        _serve(channel, alive, wakeup, preload.Ahead())
    except BaseException:  # noqa: BLE001 - the last resort of a process without a caller
        sys.excepthook(*sys.exc_info())
    finally:
        _end()


def main_after_fork(channel: int, alive: int, kernel: int, log: int) -> None:
    """Entry of a copy of the kernel; as `main`, and `log` is where it writes. Never returns."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
        wakeup = _take_place(kernel)
        _forget_children()
        preload.take_over_kernel()
        _serve(channel, alive, wakeup, preload.Ahead(()))
    except BaseException:  # noqa: BLE001 - the last resort of a process without a caller
        sys.excepthook(*sys.exc_info())
    finally:
        _end()


def _forget_children() -> None:
    """What the kernel has started is not for its copies to wait for, nor to end."""
    for package in ("multiprocessing", "multiprocess"):
        module = sys.modules.get(f"{package}.process")
        if module is not None:
            module._children.clear()


def _take_place(kernel: int) -> int:
    """Be out of reach of the kernel's signals, and end when it does. Returns a pipe that tells of ended children."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(STACKS_SIGNAL, signal.SIG_IGN)  # and of the workers' until they can answer it: it would end them
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    adopt_orphans()
    end_with_parent(signal.SIGTERM, kernel)
    return _wakeup_pipe(lambda *_: None)


def _serve(channel: int, alive: int, wakeup: int, ahead: preload.Ahead) -> None:
    with suppress(EOFError):  # the kernel closed its end: it is gone, or wants another zygote
        Zygote(Channel(socket.socket(fileno=channel)), alive, wakeup, ahead).serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
