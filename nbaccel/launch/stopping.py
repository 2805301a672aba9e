"""How a worker that does not end by itself is ended: ask, insist, kill. Pure: times in, signals out."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

Steps = tuple[tuple[float, signal.Signals], ...]
"""Seconds after the decision, and the signal that is due then."""

INTERRUPT: Steps = ((0.0, signal.SIGINT), (1.0, signal.SIGTERM), (1.5, signal.SIGKILL))
"""Python code gets a KeyboardInterrupt and a second to react; code that is stuck in C ends by the second signal."""
FAILURE: Steps = ((0.25, signal.SIGINT), (0.5, signal.SIGTERM), (0.75, signal.SIGKILL))
"""The others first get a moment to fail of the same cause, so that equal errors are told as one."""
INTERRUPT_KEEPING: Steps = ((0.0, signal.SIGINT), (2.0, signal.SIGTERM), (2.4, signal.SIGKILL))
"""In a session, whose variables are worth some patience."""
FAILURE_KEEPING: Steps = ((0.25, signal.SIGINT), (2.0, signal.SIGTERM), (2.5, signal.SIGKILL))
GOODBYE: Steps = ((2.0, signal.SIGTERM), (2.5, signal.SIGKILL))
"""After a good end: exit handlers may take their time."""
NOW: Steps = ((0.0, signal.SIGKILL),)


@dataclass
class Escalation:
    """A running schedule of signals."""

    since: float
    steps: Steps
    _sent: int = field(default=0)

    def due(self, now: float) -> list[signal.Signals]:
        """Signals whose time has come since the last call."""
        due = []
        while self._sent < len(self.steps) and now - self.since >= self.steps[self._sent][0]:
            due.append(self.steps[self._sent][1])
            self._sent += 1
        return due

    def next_at(self) -> float | None:
        """Time of the next signal."""
        return self.since + self.steps[self._sent][0] if self._sent < len(self.steps) else None
