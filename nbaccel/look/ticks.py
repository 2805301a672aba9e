"""Round numbers along an axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers that lie in a range, evenly spaced."""
    if not high > low:
        return [low]
    for step in _round_numbers((high - low) / most):
        first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
        if last - first < most:
            return [number * step for number in range(first, last + 1)]
    raise AssertionError("some round number is large enough")


_SLACK = 1e-9


def _round_numbers(least: float) -> Iterator[float]:
    """Growing ones: 1, 2, 2.5, 5, 10, ..."""
    size = 10.0 ** math.floor(math.log10(least))
    for power in itertools.count():
        for factor in (1, 2, 2.5, 5):
            if (step := size * 10.0**power * factor) >= least * (1 - _SLACK):
                yield step


def short(value: float) -> str:
    """A number in few characters: `1.5k`, `0.0032`, `2e-05`."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"
