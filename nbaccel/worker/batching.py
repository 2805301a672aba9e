"""Numbers that are logged, gathered so that the kernel gets a few messages a second, however many there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from nbaccel.runtime.tracking.reporting import fetched
from nbaccel.wire.messages import Point

MOST_POINTS = 512
"""So many points go into one message; of more, every second one, every fourth one, ..., and the last."""
_BURST = 3
_PER_SECOND = 8.0


class Batches:
    """The points of one run.

    Args:
        send: takes what has come together.
        clock: seconds; the same for all processes of the machine.
    """

    def __init__(self, send: Callable[[tuple[Point, ...]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._allowance, self._allowed_at = float(_BURST), clock()
        self._next_step = 0.0
        self._begin()

    def _begin(self) -> None:
        self._points: list[tuple[float, float, Mapping[str, Any]]] = []
        self._stride, self._skipped = 1, 0
        self._last: tuple[float, float, Mapping[str, Any]] | None = None

    def add(self, values: Mapping[str, Any], step: float | None) -> None:
        """Note values, and send what there is if that was not just done.

        Args:
            values: numbers by name, as `reporting.kept` gives them.
            step: where; None for one behind the last.
        """
        now = self._clock()
        where = self._next_step if step is None else float(step)
        self._next_step = max(self._next_step, where + 1)
        self._last = (where, now, values)
        self._skipped += 1
        if self._skipped >= self._stride:
            self._append(self._last)
        self._allowance = min(_BURST, self._allowance + (now - self._allowed_at) * _PER_SECOND)
        self._allowed_at = now
        if self._allowance >= 1:
            self._allowance -= 1
            self.flush()

    def _append(self, point: tuple[float, float, Mapping[str, Any]]) -> None:
        self._points.append(point)
        self._skipped, self._last = 0, None
        if len(self._points) >= MOST_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def flush(self) -> None:
        """Send what has not been sent."""
        points = self._points if self._last is None else [*self._points, self._last]
        self._begin()
        if points:
            self._send(tuple(Point(step, time_s, fetched(values)) for step, time_s, values in points))
