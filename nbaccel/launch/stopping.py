"""How a worker that does not end by itself is ended: ask, insist, kill. Pure: times in, signals out."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nbaccel.errors import name_ranks

Whom = TypeVar("Whom")

Steps = tuple[tuple[float, signal.Signals], ...]
"""Seconds after the decision, and the signal that is due then."""

INTERRUPT: Steps = ((0.0, signal.SIGINT), (1.0, signal.SIGTERM), (1.5, signal.SIGKILL))
"""Python code gets a KeyboardInterrupt and a second to react; code that is stuck in C ends by the second signal."""
FAILURE: Steps = ((0.25, signal.SIGINT), (0.5, signal.SIGTERM), (0.75, signal.SIGKILL))
"""The others first get a moment to fail of the same cause, so that equal errors are told as one."""
INTERRUPT_KEEPING: Steps = ((0.0, signal.SIGINT), (2.0, signal.SIGTERM), (2.4, signal.SIGKILL))
"""In a session, whose variables are worth some patience."""
FAILURE_KEEPING: Steps = ((0.25, signal.SIGINT), (2.0, signal.SIGTERM), (2.5, signal.SIGKILL))
GOODBYE: Steps = ((600.0, signal.SIGTERM), (600.5, signal.SIGKILL))
"""After a session, for whose workers nobody waits: a checkpoint may still be on its way to the disk."""
LATE_GOODBYE: Steps = ((30.0, signal.SIGTERM), (30.5, signal.SIGKILL))
"""After a good end, once the run's `timeout` is over. Without one its threads and exit handlers take what they need."""
SLOW_GOODBYE_S = 3.0
"""After this the user is told what is being waited for."""
NOW: Steps = ((0.0, signal.SIGKILL),)


def still_waits(ranks: Sequence[int]) -> str:
    """What the user is told of ranks that have not ended yet."""
    wait = "waits" if len(ranks) == 1 else "wait"
    return (
        f"the code has come to its end; {name_ranks(ranks)} still {wait} for threads or exit handlers "
        "(Stop ends them now, and the result is kept)."
    )


def cut_off(ranks: Sequence[int]) -> str:
    """What the user is told of ranks that are ended by the clock."""
    were = "was" if len(ranks) == 1 else "were"
    return (
        f"the code has come to its end; {name_ranks(ranks)} {were} ended by the clock, and what threads or exit "
        "handlers there had not finished is lost."
    )


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


@dataclass(frozen=True)
class Press(Generic[Whom]):
    """Signals for some ranks, as time goes on; `whom` is the run that they belong to, None for all runs."""

    ranks: frozenset[int]
    escalation: Escalation
    whom: Whom | None


class Pressing(Generic[Whom]):
    """Who is being pressed to end just now."""

    def __init__(self) -> None:
        self._presses: list[Press[Whom]] = []

    def begin(self, ranks: Iterable[int], steps: Steps, whom: Whom | None, now: float) -> None:
        """Begin, in place of what was under way for the same run; of everything if it is for all."""
        self._presses = [] if whom is None else [press for press in self._presses if press.whom is not whom]
        self._presses.append(Press(frozenset(ranks), Escalation(now, steps), whom))

    def end(self, whom: Whom) -> None:
        self._presses = [press for press in self._presses if press.whom is not whom]

    def concerns(self, whom: Whom) -> bool:
        return any(press.whom is whom or press.whom is None for press in self._presses)

    def due(self, now: float) -> list[tuple[Press[Whom], signal.Signals]]:
        """Signals whose time has come."""
        return [(press, number) for press in self._presses for number in press.escalation.due(now)]

    def next_at(self) -> float | None:
        """Time of the next signal."""
        times = [at for press in self._presses if (at := press.escalation.next_at()) is not None]
        return min(times, default=None)

    @property
    def is_exhausted(self) -> bool:
        """Whether some last signal has been sent."""
        return any(press.escalation.next_at() is None for press in self._presses)
