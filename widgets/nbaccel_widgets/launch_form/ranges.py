"""Where a number may lie, as annotations say it: `Annotated[float, Field(gt=0, le=1)]`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Range:
    """A range of numbers; None where it is open.

    Attributes:
        low: the least number.
        high: the greatest number.
        beyond_low: whether `low` itself is left out.
        beyond_high: whether `high` itself is left out.
        step: numbers are multiples of it.
    """

    low: float | None = None
    high: float | None = None
    beyond_low: bool = False
    beyond_high: bool = False
    step: float | None = None

    def __str__(self) -> str:
        """The range in words, to be put behind `a number`; empty if there is none."""
        low = "" if self.low is None else f" {'above' if self.beyond_low else 'from'} {self.low:g}"
        high = (
            "" if self.high is None else f" {'below' if self.beyond_high else 'to' if low else 'up to'} {self.high:g}"
        )
        if low and high and (self.beyond_low or self.beyond_high):
            high = f" and{high}" if self.beyond_high else f" up to{high.removeprefix(' to')}"
        step = "" if self.step is None else f", a multiple of {self.step:g}"
        return f"{low}{high}{step}"


def range_of(described: Iterable[Any]) -> Range:
    """The range that stands beside a type in `Annotated`."""
    low = high = step = None
    beyond_low = beyond_high = False
    for one in _flat(described):
        for name, beyond in (("ge", False), ("gt", True)):
            if getattr(one, name, None) is not None:
                low, beyond_low = getattr(one, name), beyond
        for name, beyond in (("le", False), ("lt", True)):
            if getattr(one, name, None) is not None:
                high, beyond_high = getattr(one, name), beyond
        step = getattr(one, "multiple_of", None) or step
    return Range(low, high, beyond_low, beyond_high, step)


def _flat(described: Iterable[Any]) -> Iterator[Any]:
    for one in described:
        if isinstance(one, FieldInfo):
            yield from one.metadata
        else:
            yield one
