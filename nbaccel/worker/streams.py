"""The way out of a worker: messages, each with a mark among the text that was printed before it."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from nbaccel.wire.channel import Channel
from nbaccel.wire.marks import mark_bytes
from nbaccel.worker.interrupts import InterruptGate

_STREAMS = {"stdout": 1, "stderr": 2}


def open_streams() -> None:
    """Let `sys.stdout` and `sys.stderr` write what they are given at once."""
    for name in _STREAMS:
        _open(name)


def _open(name: str) -> None:
    raw = io.FileIO(_STREAMS[name], "w", closefd=False)
    setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "replace", write_through=True))


def mend_streams() -> None:
    """What the user's code has left closed, or taken away, is opened again; what it has put in place stays."""
    for name in _STREAMS:
        with suppress(Exception):  # what is there may be anything, and raise anything
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                _open(name)


def flush_streams() -> None:
    """Write what was printed, as far as what stands for the streams can do so."""
    for name in _STREAMS:
        with suppress(Exception):  # closed, taken away, or replaced by something that knows no `flush`
            getattr(sys, name).flush()


class Outbox:
    """Sends messages in their place among the text. Silent in processes that were forked from the worker."""

    def __init__(self, channel: Channel, gate: InterruptGate, token: str) -> None:
        self._channel, self._gate, self._token = channel, gate, token
        self._owner = os.getpid()
        self._marks = 0
        self._sending = threading.RLock()
        self._is_busy = False
        self._waiting: deque[Callable[[], None]] = deque()

    def send_last(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send the message that ends a run: without marks, since all text comes before it."""
        self._in_turn(lambda: self._send_last(message, descriptors))

    def send(self, build: Callable[[int], object]) -> None:
        """Write a mark into both pipes and send the message that `build` makes of the mark's number."""
        self._in_turn(lambda: self._send(build))

    def _in_turn(self, send: Callable[[], None]) -> None:
        """Send; inside another message of this thread, where a bar was collected or a signal came, after that one."""
        if os.getpid() != self._owner:
            return
        with self._gate.protocol(), self._sending:
            self._waiting.append(send)
            if self._is_busy:
                return
            self._is_busy = True
            try:
                while self._waiting:
                    self._waiting.popleft()()
            finally:
                self._is_busy = False

    def _send_last(self, message: object, descriptors: Sequence[int]) -> None:
        mend_streams()
        flush_streams()
        self._channel.send(message, descriptors)

    def _send(self, build: Callable[[int], object]) -> None:
        self._marks += 1
        flush_streams()
        mark = mark_bytes(self._token, self._marks)
        for pipe in _STREAMS.values():
            os.write(pipe, mark)
        self._channel.send(build(self._marks))
