"""Interrupts reach the user's code and nothing else: a KeyboardInterrupt inside the protocol would corrupt it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptGate:
    """Decides where SIGINT becomes a KeyboardInterrupt: only while the gate is open, else it waits for that."""

    def __init__(self) -> None:
        self._open = False
        self._pending = False
        self.heard = 0

    def install(self) -> None:
        """Take over SIGINT; a process forked from an idle kernel inherits it as ignored."""
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.heard += 1
        if self._open:
            raise KeyboardInterrupt
        self._pending = True

    @property
    def is_open(self) -> bool:
        """Whether the user's code runs, and no message is being written."""
        return self._open

    def forget(self) -> None:
        """A new run has come: an interrupt that came too late for the one before it belongs to nothing."""
        self._pending = False

    @contextmanager
    def user_code(self) -> Iterator[None]:
        """The gate is open inside; an interrupt that came while the run was unpacked is raised at once."""
        try:
            self._open = True
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False

    @contextmanager
    def protocol(self) -> Iterator[None]:
        """The gate is closed inside; an interrupt that comes meanwhile is raised at the end.

        Signals reach the main thread alone: messages of other threads are safe as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        was_open, self._open = self._open, False
        try:
            yield
        finally:
            self._open = was_open
        if was_open and self._pending:
            self._pending = False
            raise KeyboardInterrupt
