"""The kernel's handle on one worker process."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from contextlib import suppress

from nbaccel.launch.order import Item, Order
from nbaccel.launch.process import ProcessHandle
from nbaccel.wire.channel import Channel
from nbaccel.wire.ends import STACKS_SIGNAL
from nbaccel.wire.parcel import MemoryFile

_READ_BYTES = 1 << 18
_LAST_OUTPUT_CHARACTERS = 2000
_MOST_STACK_BYTES = 1 << 20


class Worker:
    """The kernel's handle on one worker process.

    Attributes:
        left: it has closed its end of the channel, as the last thing it does.
        exited: nothing more is expected of it.
    """

    def __init__(
        self,
        rank: int,
        process: ProcessHandle,
        channel: Channel,
        pipes: dict[int, int],
        monitor: Channel,
        stacks: MemoryFile,
        token: str,
    ) -> None:
        self.rank, self.process, self.channel = rank, process, channel
        self.pipes = pipes
        self.monitor, self._stacks = monitor, stacks
        self.monitored = True
        self.order = Order(token)
        self.last_output = ""
        self.left = False
        self.exited = False
        for descriptor in pipes.values():
            os.set_blocking(descriptor, False)

    def descriptors(self, *, with_output: bool) -> list[int]:
        """Where news of it can come from; without its output, which then waits, and it with it."""
        if self.exited:
            return []
        channel = [] if self.left else [self.channel.fileno()]
        monitor = [self.monitor.fileno()] if self.monitored else []
        return [self.process.fileno(), *monitor, *([*channel, *self.pipes.values()] if with_output else ())]

    def read_pipe(self, stream: int, most_bytes: int = _READ_BYTES) -> list[Item]:
        """Read what is there; at its end a pipe is closed and forgotten."""
        try:
            data = os.read(self.pipes[stream], most_bytes)
        except BlockingIOError:
            return []
        if not data:
            os.close(self.pipes.pop(stream))
            return []
        return self.order.text(stream, data)

    def note_output(self, text: str) -> None:
        """Remember the end of what it printed: it tells most if the worker dies."""
        self.last_output = (self.last_output + text)[-_LAST_OUTPUT_CHARACTERS:]

    def drain(self) -> list[Item]:
        """All text that is in the pipes by now, and no more: a grandchild may hold them open and go on writing."""
        items: list[Item] = []
        for stream, descriptor in tuple(self.pipes.items()):
            waiting = _waiting_bytes(descriptor)
            if waiting:
                items += self.read_pipe(stream, waiting)
        return items

    def send(self, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; a worker that is gone is noticed by its end, not here."""
        with suppress(OSError):
            self.channel.send(message, descriptors)

    def tell_monitor(self, message: object) -> None:
        """Send a message to the worker's monitor thread."""
        with suppress(OSError):
            self.monitor.send(message)

    def request_stacks(self) -> None:
        """Ask for the stacks of all its threads, which works even while C code holds the interpreter."""
        if self.process.pid is None or self.exited:
            return
        os.ftruncate(self._stacks.fileno(), 0)
        os.lseek(self._stacks.fileno(), 0, os.SEEK_SET)  # the worker writes at the offset that both share
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.process.pid, STACKS_SIGNAL)

    def stacks(self) -> str:
        """What has come of the stacks so far."""
        return os.pread(self._stacks.fileno(), _MOST_STACK_BYTES, 0).decode(errors="replace")

    def close(self) -> None:
        for descriptor in self.pipes.values():
            os.close(descriptor)
        self.pipes.clear()
        self.channel.close()
        self.monitor.close()
        self._stacks.close()
        self.process.close()


def _waiting_bytes(pipe: int) -> int:
    """How much can be read at once."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
