"""Work in a thread that the next call, or the end of the process, waits for."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from typing import ClassVar


class Background:
    """At most one piece of work at a time."""

    _unheard: ClassVar[list[BaseException]] = []

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []

    def start(self, work: Callable[[], object]) -> None:
        """Begin, once what is under way has ended. Raises the latter's error."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the next call raises it
                self._errors.append(error)
                self._unheard.append(error)

        # not a daemon: the interpreter waits for it before it ends
        self._thread = threading.Thread(target=run, name="nbaccel-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end of what is under way. Raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self._errors:
            error = self._errors.pop()
            self._unheard.remove(error)
            raise error

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


def _tell_unheard() -> None:
    for error in Background._unheard:
        sys.stderr.write(f"nbaccel: the last state was not saved: {error}\n")


atexit.register(_tell_unheard)
