"""Curves that grow in the cell while the training runs, and stay there as a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from nbaccel.look import sparkline
from nbaccel.look.curves import Curves
from nbaccel.look.svg import draw
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.display import Display, find_display
from nbaccel.runtime.tracking.plain import numbers

_DRAW_EVERY_S = 0.5


class NotebookTracker(GeneralTracker):
    """Draws curves in the notebook; in a terminal or a script it prints a line for each at the end.

    Args:
        run_name: of no effect.
        find: looks for the place to draw in.
        clock: seconds.
    """

    name = "notebook"

    def __init__(
        self,
        run_name: str = "",
        *,
        find: Callable[[], Display] = find_display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.curves = Curves()
        self._find, self._clock = find, clock
        self._display = Display()
        self._drawn_s = float("-inf")
        self._is_drawn, self._is_over = True, False

    @property
    def tracker(self) -> Curves:
        return self.curves

    def start(self) -> None:
        self._display = self._find()
        self._display.when_cells_end(self._draw_rest)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note numbers; texts and arrays are no curves, and are left out."""
        found = numbers(values)
        if not found:
            return
        self.curves.add(found, step)
        self._is_drawn = False
        if self._display.is_there and self._clock() - self._drawn_s >= _DRAW_EVERY_S:
            self._draw()

    def finish(self) -> None:
        """The last picture, with its text for those who cannot see pictures."""
        if self._is_over or not self.curves.by_name:
            return
        self._is_over = True
        if self._display.is_there:
            self._draw(last=True)
        else:
            print(sparkline.lines(self.curves.by_name), flush=True)

    def _draw_rest(self) -> None:
        """A cell is over, and perhaps the training with it."""
        if not self._is_drawn:
            self._draw(last=True)

    def _draw(self, *, last: bool = False) -> None:
        picture = {"image/svg+xml": draw(self.curves.panels())}
        # text only once: where nobody sees pictures each update would be printed
        text = {"text/plain": sparkline.lines(self.curves.by_name)} if last else {}
        self._display.show({**picture, **text})
        self._drawn_s, self._is_drawn = self._clock(), True
