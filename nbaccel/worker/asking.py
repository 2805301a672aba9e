"""`input()` in a worker: the question goes to the kernel, which asks the user and sends the answer."""

from __future__ import annotations

import builtins
import getpass
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from nbaccel.wire.channel import Channel
from nbaccel.wire.messages import Ask, Reply
from nbaccel.worker.interrupts import InterruptGate
from nbaccel.worker.streams import Outbox


class Asker:
    """Stands in for `input` and `getpass.getpass`, in the main thread while the user's code runs."""

    def __init__(self, channel: Channel, gate: InterruptGate, outbox: Outbox) -> None:
        self._channel, self._gate, self._outbox = channel, gate, outbox
        self._owner = os.getpid()
        self._number = 0
        self._original: Callable[..., str] = builtins.input
        self.postponed: list[tuple[object, list[int]]] = []

    def install(self) -> None:
        builtins.input = self._input
        getpass.getpass = self._getpass

    def _input(self, prompt: object = "", /) -> str:
        return self._ask(str(prompt), password=False)

    def _getpass(self, prompt: str = "Password: ", stream: Any = None, **_: Any) -> str:
        return self._ask(prompt, password=True)

    def _ask(self, prompt: str, *, password: bool) -> str:
        if os.getpid() != self._owner:  # a process that the user's code forked: its standard input is empty
            return self._original(prompt)
        if not self._gate.is_open or threading.current_thread() is not threading.main_thread():
            raise EOFError("in a worker, input() works in the main thread, while a cell or function runs.")
        self._number += 1
        number = self._number
        self._outbox.send(lambda mark: Ask(mark, number, prompt, password))
        reply = self._wait_for(number)
        if reply.text is None:
            raise EOFError(reply.problem)
        return reply.text

    def _wait_for(self, number: int) -> Reply:
        """Interruptible while nothing has come; what comes besides is left for the worker's loop."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while True:
            poll.poll()
            with self._gate.protocol():
                message, descriptors = self._channel.receive()
            if isinstance(message, Reply):
                if message.number == number:
                    return message
                continue  # the answer to a question that was interrupted
            self.postponed.append((message, descriptors))
            raise EOFError("the run has ended while the question was open.")
