"""Watches how often XLA compiles a step: each time costs seconds to minutes, and changing shapes bring it about."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from nbaccel.runtime.batches import shape_table

WARM_UP_STEPS = 3
"""The first steps always compile: the optimizer's state is made in them."""
PATIENCE = 4
"""So many compiled steps after the first ones are by accident: a last batch that is short, an evaluation."""
_MOST_SHAPES = 4


def compile_count() -> int:
    """Computations that XLA has compiled in this process."""
    from torch_xla.debug import metrics

    return int(metrics.counter_value("UncachedCompile") or 0)


class CompileWatch:
    """Warns once if step after step is compiled anew, and names the shapes that differ.

    Args:
        count: says how many computations have been compiled.
    """

    def __init__(self, count: Callable[[], int] = compile_count) -> None:
        self._count, self._last = count, count()
        self._steps = self._compiled = 0
        self._shapes: dict[str, list[str]] = {}
        self._done = False

    def note(self, batch: Any) -> None:
        """A step is over.

        Args:
            batch: what it was fed with.
        """
        if self._done:
            return
        self._steps += 1
        count = self._count()
        if count == self._last:
            return
        self._last = count
        for path, shape in shape_table(batch).items():
            known = self._shapes.setdefault(path, [])
            if shape not in known:
                known.append(shape)
        if self._steps > WARM_UP_STEPS:
            self._compiled += 1
        if self._compiled > PATIENCE:
            self._done = True
            warnings.warn(self._report(), stacklevel=2)

    def _report(self) -> str:
        often = (
            f"XLA has compiled {self._compiled} of the last {self._steps - WARM_UP_STEPS} steps anew, slow each time"
        )
        differing = {path: shapes for path, shapes in self._shapes.items() if len(shapes) > 1}
        if not differing:
            return (
                f"{often}. The batches have equal shapes, so something else in the step changes: a Python number that "
                "is computed with (make it a tensor), or a branch on a tensor's value."
            )
        shown = "; ".join(f"{path}: {_listed(shapes)}" for path, shapes in differing.items())
        return f"{often}, because the batches differ in shape ({shown}). Pad them to one size, and use drop_last=True."


def _listed(shapes: list[str]) -> str:
    more = len(shapes) - _MOST_SHAPES
    return ", ".join(shapes[:_MOST_SHAPES]) + (f" and {more} more" if more > 0 else "")
