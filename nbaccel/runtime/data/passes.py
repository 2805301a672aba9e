"""One pass over a loader: how many batches have been handed out, and which one is the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from nbaccel.runtime.state import Position

_END: Any = object()


class Pass(Position):
    """A position that can be gone back to.

    Attributes:
        taken: batches that were handed out, with those that were skipped.
        start: what random generators said when the pass began, None before.
        ahead: the same before the batch was made that waits to be handed out, None if there is none.
        counted: whether the loader counts it among those that are over.
    """

    __slots__ = ("ahead", "counted", "start", "taken")

    def __init__(self, loader: Any = None, remainder: int = -1, taken: int = 0) -> None:
        super().__init__(loader, remainder)
        self.taken, self.counted = taken, False
        self.start: dict[str, Any] | None = None
        self.ahead: dict[str, Any] | None = None


def hand_out(batches: Iterator[Any], length: int, position: Pass) -> Iterator[Any]:
    """Batches of a known number: none is made before it is wanted.

    The end is looked for before the last one is handed out, so that all random draws of the pass are done by then.
    """
    for batch in islice(batches, max(length - 1, 0)):
        position.taken += 1
        yield batch
    yield from look_ahead(batches, position)


def look_ahead(batches: Iterator[Any], position: Pass, note: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Batches of an unknown number: one more is made than is handed out, the only way to know the last.

    Args:
        batches: the batches.
        position: is kept up to date.
        note: called before each batch that has to wait is made.
    """
    batch = next(batches, _END)
    while batch is not _END:
        note()
        following = next(batches, _END)
        position.end = following is _END
        position.taken += 1
        yield batch
        batch = following
