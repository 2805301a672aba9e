"""Curves as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from nbaccel.look.curves import Curve
from nbaccel.look.ticks import short

_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def lines(curves: Mapping[str, Curve]) -> str:
    """One line for each metric: its name, its shape, its first, last, lowest and highest value."""
    width = max(map(len, curves), default=0)
    return "\n".join(f"{name:<{width}}  {_line(curve)}" for name, curve in curves.items())


def _line(curve: Curve) -> str:
    values = [value for _, value in curve.points()]
    if not values:
        return f"no finite value among {curve.count}"
    ends = f"{short(values[0])} → {short(curve.last)}"
    return f"{sparkline(values)}  {ends}  (min {short(min(values))}, max {short(max(values))}, {curve.count} values)"


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """The shape of a series in at most `width` characters."""
    low, high = min(values), max(values)
    if len(values) > width:
        cuts = [number * len(values) // width for number in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    spread = high - low
    return "".join(_LEVELS[int((value - low) / spread * (len(_LEVELS) - 1)) if spread else 0] for value in values)
