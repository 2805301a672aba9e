"""What a running job lets be seen."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbaccel.wire.messages import Point, Shown


@dataclass(frozen=True)
class Text:
    """Text that was printed.

    Attributes:
        stream: 1 for standard output, 2 for standard error.
        text: what was printed.
    """

    stream: int
    text: str


@dataclass(frozen=True)
class Rich:
    """Rich output of a rank."""

    rank: int
    shown: Shown


@dataclass(frozen=True)
class Bar:
    """New state of a progress bar of a rank (see `runtime.progress`)."""

    rank: int
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Metrics:
    """Numbers that a rank has logged, one point at least; they go to the run's board."""

    rank: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Lasting:
    """The run is no short one: whoever shows it may show more of it."""


@dataclass(frozen=True)
class Question:
    """A rank called `input()` and waits for the answer."""

    rank: int
    number: int
    prompt: str
    password: bool


@dataclass(frozen=True)
class Note:
    """Something to be told about the run itself."""

    text: str


@dataclass(frozen=True)
class Flood:
    """More was printed than a cell can bear: what has been left out so far.

    Attributes:
        lines: how many.
        last_line: the last one.
        path: where all of it is; None while that is not known.
        over: whether the run has ended.
    """

    lines: int
    last_line: str
    path: Path | None
    over: bool


Event = Text | Rich | Bar | Question | Note | Flood | Lasting


_MOST_WAITING = 256
_MOST_WAITING_BYTES = 16 << 20


class Backlog:
    """What waits to be shown. When it grows too long, its reader lags behind, and workers are made to wait."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._got_bytes = 0

    def put(self, event: Event | None) -> None:
        """Append; None is the end. Called by one thread."""
        self._put_bytes += _size(event)
        self._events.put(event)

    def get(self, is_over: Callable[[], bool]) -> Event | None:
        """Waits for the next; None at the end, also when an interrupt has swallowed that. Called by another thread."""
        if is_over() and self._events.empty():
            return None
        event = self._events.get()
        self._got_bytes += _size(event)
        return event

    def has_room(self) -> bool:
        return self._events.qsize() < _MOST_WAITING and self._put_bytes - self._got_bytes < _MOST_WAITING_BYTES


def _size(event: Event | None) -> int:
    if isinstance(event, Text):
        return len(event.text)
    values = event.shown.data.values() if isinstance(event, Rich) else ()
    return sum(len(value) for value in values if isinstance(value, str | bytes))
