"""What a run is at, as far as its ranks have told: progress, logged numbers, pace. Of bounded size."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from nbaccel.launch.events import Bar, Metrics
from nbaccel.look.curves import Curve, Curves

if TYPE_CHECKING:
    from nbaccel.look.bars import Bars

_PACE_OVER_S = 10.0
_MOST_CLOSED = 32


@dataclass(frozen=True)
class Progress:
    """How far a rank is.

    Attributes:
        fraction: of the whole, from 0 to 1.
        remaining_s: seconds until its end, if it goes on like this; None while nobody can tell.
        bar: number of the bar that says so.
        since_s: when that bar began.
    """

    fraction: float
    remaining_s: float | None
    bar: int = 0
    since_s: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How fast the run goes.

    Attributes:
        per_second: how many.
        unit: of what.
    """

    per_second: float
    unit: str


class Board:
    """Takes what ranks tell in one thread, and is read in others.

    Args:
        ranks: of the run.
        clock: seconds.

    Attributes:
        curves: what was logged.
        changes: grows whenever something is told.
    """

    def __init__(self, ranks: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.curves = Curves()
        self.changes = 0
        self._ranks, self._clock = tuple(ranks), clock
        self._bars: dict[int, dict[int, Mapping[str, Any]]] = {}
        self._farthest: dict[int, Progress] = {}
        self._steps: deque[tuple[float, float]] = deque()
        self._first_step: tuple[float, float] | None = None
        self._lock = threading.RLock()

    @cached_property
    def _drawn(self) -> Bars:
        from nbaccel.look.bars import Bars  # tqdm, which it formats with, takes 50 ms: only where there are bars

        return Bars(len(self._ranks))

    def take(self, event: Bar | Metrics) -> None:
        """A rank has told something."""
        with self._lock:
            self.changes += 1
            if isinstance(event, Bar):
                self._take_bar(event)
            else:
                self._take_metrics(event)

    def _take_bar(self, bar: Bar) -> None:
        self._drawn.update(bar.rank, bar.fields)
        mine, number = self._bars.setdefault(bar.rank, {}), cast("int", bar.fields["bar"])
        mine[number] = bar.fields
        for old in sorted(other for other, fields in mine.items() if fields["closed"])[1:-_MOST_CLOSED]:
            del mine[old]
        before = self._farthest.get(bar.rank)
        outer = _first_open(mine) or mine.get(number if before is None else before.bar)
        if outer is not None and outer["total"]:
            self._farthest[bar.rank] = _progress(outer, mine, before, self._clock())

    def _take_metrics(self, metrics: Metrics) -> None:
        for step, _, values in metrics.points:
            self.curves.add(values, step)
        step, now_s, _ = metrics.points[-1]
        if self._first_step is None:
            self._first_step = (metrics.points[0].time_s, metrics.points[0].step)
        self._steps.append((now_s, step))
        while len(self._steps) > 2 and now_s - self._steps[1][0] > _PACE_OVER_S:
            self._steps.popleft()

    # reading

    def finish_bars(self) -> None:
        """The run is over: bars that are open will not move any more."""
        with self._lock:
            if self._bars:
                self._drawn.finish()
                self.changes += 1

    def bars_html(self) -> str:
        with self._lock:
            return self._drawn.html() if self._bars else ""

    def bars_text(self) -> str:
        with self._lock:
            return self._drawn.text() if self._bars else ""

    def panels(self) -> dict[str, dict[str, Curve]]:
        """The curves as they are now, by what they measure."""
        with self._lock:
            return {
                title: {name: curve.copy() for name, curve in curves.items()}
                for title, curves in self.curves.panels().items()
            }

    def num_values(self) -> int:
        """How many numbers were logged."""
        with self._lock:
            return sum(curve.count for curve in self.curves.by_name.values())

    def progress(self) -> Progress | None:
        """Of the rank that is farthest behind; None if no rank has told how much there is to do."""
        with self._lock:
            return min(self._farthest.values(), key=lambda one: one.fraction, default=None)

    def pace(self, *, overall: bool = False) -> Pace | None:
        """Steps a second of the last seconds, or of the whole run; None unless steps were logged.

        Args:
            overall: of the whole run.
        """
        with self._lock:
            if self._first_step is None:
                return None
            start = self._first_step if overall or len(self._steps) == 1 else self._steps[0]
            end = self._steps[-1]
            took_s, steps = end[0] - start[0], end[1] - start[1]
            return Pace(steps / took_s, "step") if took_s > 0 and steps > 0 else None


def _first_open(bars: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The bar that stands for the whole: the first that is open and knows its total."""
    numbers = (number for number in sorted(bars) if bars[number]["total"] and not bars[number]["closed"])
    return next((bars[number] for number in numbers), None)


def _progress(
    outer: Mapping[str, Any], bars: Mapping[int, Mapping[str, Any]], before: Progress | None, now_s: float
) -> Progress:
    """How far a rank is by its outer bar; what an open bar inside it has done counts as a part of its step."""
    number, total = outer["bar"], outer["total"]
    fraction, since_s = _fraction(outer, bars), now_s - outer["elapsed"]
    if before is not None and before.bar == number:  # between two inner bars there is none
        fraction, since_s = max(fraction, before.fraction), before.since_s
    remaining = None
    if outer["rate"]:
        remaining = (1 - fraction) * total / outer["rate"]
    elif fraction > 0:
        remaining = (now_s - since_s) * (1 - fraction) / fraction
    return Progress(fraction, remaining, number, since_s)


def _fraction(outer: Mapping[str, Any], bars: Mapping[int, Mapping[str, Any]]) -> float:
    inside = {number: fields for number, fields in bars.items() if number > outer["bar"]}
    inner = None if outer["closed"] else _first_open(inside)
    part = 0.0 if inner is None else _fraction(inner, inside)
    return float(min(max((outer["n"] + part) / outer["total"], 0.0), 1.0))
