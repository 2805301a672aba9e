"""What the kernel side knows of a worker process: a handle on its life."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_NUMBER_BYTES = 8
_REFUSED = (
    "The system refused to make another process: {}. That is a limit on processes (`ulimit -u`, or a container's limit "
    "on pids) or on memory: end what is not needed, raise it, or launch fewer processes."
)


class ProcessHandle:
    """A process that somebody else watches over and reports on through a pipe: first its id, then how it ended.

    Attributes:
        refusal: why the system did not make the process, and what to do; empty if it did, or nobody has told.
        is_stillborn: it will never come to life: the system has refused, or whoever was to start it is gone.
    """

    def __init__(self, status: int) -> None:
        self._status = status
        self.refusal = ""
        self.is_stillborn = False
        self._known: list[int] = []
        self._owed: signal.Signals | None = None

    def fileno(self) -> int:
        """Readable when there is something new to learn."""
        return self._status

    @property
    def pid(self) -> int | None:
        """Its process id; None while nobody has told it, and for ever if the process never came to life."""
        return self._known[0] if self._known else None

    @property
    def status(self) -> int | None:
        """How it ended, as `Popen.returncode`; None while it runs or when nobody knows."""
        return self._known[1] if len(self._known) > 1 else None

    def learn(self) -> bool:
        """Read what is new. Returns whether the process has ended."""
        data = os.read(self._status, _NUMBER_BYTES)
        number = int.from_bytes(data, "little", signed=True)
        self.is_stillborn = not self._known and number <= 0
        if not self._known and number < 0:
            self.refusal = _REFUSED.format(os.strerror(-number))
            return True
        if data:
            self._known.append(number)
        if len(self._known) == 1 and self._owed is not None:
            self.signal(self._owed)
        return not data or len(self._known) > 1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started in its group; to one yet unborn, once it is born."""
        if not self._known:
            self._owed = number
            return
        with suppress(ProcessLookupError, PermissionError):  # gone already
            os.killpg(self._known[0], number)

    def close(self) -> None:
        os.close(self._status)
