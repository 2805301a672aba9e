"""The numbers behind the curves of a run, of bounded size."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping

MOST_POINTS = 1200
_SPLITS = {"train", "training", "eval", "evaluation", "val", "valid", "validation", "test", "dev"}


Point = tuple[float, float]


class Curve:
    """One metric over the steps. A long one keeps the lowest and the highest of each so many values in a row.

    Attributes:
        count: how many values were logged.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.count = 0
        self._end: Point = (0.0, 0.0)
        self._spans: list[tuple[Point, Point]] = []
        self._per_span = 1
        for step, value in points:
            self.add(step, value)

    def add(self, step: float, value: float) -> None:
        point = (step, value)
        if self.count % self._per_span:
            self._spans[-1] = _joined(self._spans[-1], (point, point))
        else:
            self._spans.append((point, point))
        self.count, self._end = self.count + 1, point
        if len(self._spans) * 2 > MOST_POINTS:
            self._halve()

    @property
    def last(self) -> float:
        """The value that was logged last; 0 if there is none."""
        return self._end[1]

    def points(self) -> list[Point]:
        """What can be drawn, in order."""
        found = [point for low, high in self._spans for point in sorted({low, high})]
        if self.count and found[-1][0] < self._end[0]:
            found.append(self._end)
        return [(step, value) for step, value in found if math.isfinite(value)]

    def copy(self) -> Curve:
        """One that does not grow with this one."""
        other = copy.copy(self)
        other._spans = list(self._spans)
        return other

    def _halve(self) -> None:
        odd = self._spans[len(self._spans) // 2 * 2 :]
        pairs = zip(self._spans[::2], self._spans[1::2], strict=False)
        self._spans = [*(_joined(one, other) for one, other in pairs), *odd]
        self._per_span *= 2


def _joined(one: tuple[Point, Point], other: tuple[Point, Point]) -> tuple[Point, Point]:
    points = [point for point in (*one, *other) if math.isfinite(point[1])] or [one[0]]
    return min(points, key=_value), max(points, key=_value)


def _value(point: Point) -> float:
    return point[1]


class Curves:
    """All metrics of a run, by name, in the order in which they came."""

    def __init__(self) -> None:
        self.by_name: dict[str, Curve] = {}
        self._calls = 0

    def add(self, values: Mapping[str, float], step: float | None) -> None:
        """Note values.

        Args:
            values: numbers by the names of their metrics.
            step: where; None for one behind the last.
        """
        where = float(self._calls if step is None else step)
        self._calls = max(self._calls, int(where)) + 1
        for name, value in values.items():
            self.by_name.setdefault(name, Curve()).add(where, value)

    def panels(self) -> dict[str, dict[str, Curve]]:
        """Curves by what they measure: `train/loss` and `eval_loss` belong together under `loss`."""
        found: dict[str, dict[str, Curve]] = {}
        for name, curve in self.by_name.items():
            found.setdefault(measured(name), {})[name] = curve
        return found


def measured(name: str) -> str:
    """What a metric measures: its name without the word for the part of the data."""
    words = [word for word in re.split(r"[/_.\s]+", name) if word]
    left = [word for word in words if word.lower() not in _SPLITS]
    return " ".join(left) if left and len(left) < len(words) else name
