"""The way out of a worker: messages, each with a mark among the text that was printed before it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence

from nbaccel.wire.channel import Channel
from nbaccel.wire.marks import mark_bytes
from nbaccel.worker.interrupts import InterruptGate


class Outbox:
    """Sends messages in their place among the text. Silent in processes that were forked from the worker."""

    def __init__(self, channel: Channel, gate: InterruptGate, token: str) -> None:
        self._channel, self._gate, self._token = channel, gate, token
        self._owner = os.getpid()
        self._marks = 0
        self._sending = threading.Lock()

    def send_last(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send the message that ends a run: without marks, since all text comes before it."""
        if os.getpid() != self._owner:
            return
        with self._gate.protocol(), self._sending:
            sys.stdout.flush()
            sys.stderr.flush()
            self._channel.send(message, descriptors)

    def send(self, build: Callable[[int], object], descriptors: Sequence[int] = ()) -> None:
        """Write a mark into both pipes and send the message that `build` makes of the mark's number."""
        if os.getpid() != self._owner:
            return
        with self._gate.protocol(), self._sending:
            self._marks += 1
            sys.stdout.flush()
            sys.stderr.flush()
            mark = mark_bytes(self._token, self._marks)
            for pipe in (1, 2):
                os.write(pipe, mark)
            self._channel.send(build(self._marks), descriptors)
