"""All processes of a checkpoint learn how each other's work ended, so that none waits for one that failed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch.distributed as dist

from nbaccel.errors import NbaccelError, StateError
from nbaccel.runtime.collectives import gather_object
from nbaccel.runtime.groups import GroupRef, default_group
from nbaccel.runtime.world import World

Result = TypeVar("Result")


def together(work: Callable[[], Result], world: World, doing: str) -> list[Result]:
    """Do something on every rank, and fail on every rank if it failed on one.

    Args:
        work: what this rank does; its result travels to all ranks.
        world: who takes part.
        doing: what it is, for the error: `saving the state`.

    Returns:
        Every rank's result, in the order of the ranks.

    Raises:
        StateError: it failed on another rank. The rank itself gets its own error.
    """
    value: Any = None
    error: Exception | None = None
    try:
        value = work()
    except Exception as own:  # noqa: BLE001 - whatever it is, the others must not wait for this rank
        error = own
    trouble = "" if error is None else _in_words(error)
    found: list[tuple[str, Result]] = gather_object([(trouble, value)], world=world)
    if error is not None:
        raise error
    for rank, (other, _) in enumerate(found):
        if other:
            raise StateError(f"{doing} failed on rank {rank}: {other}")
    return [result for _, result in found]


def each_alone(work: Callable[[], Result], world: World, doing: str) -> Result:
    """As `together`, with results that stay where they are. Returns this rank's own."""
    kept: list[Result] = []

    def keep() -> None:
        kept.append(work())

    together(keep, world, doing)
    return kept[0]


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, NbaccelError) else f"{type(error).__name__}: {error}"


class Aside:
    """A process group for a thread, so that its messages never meet those of the training."""

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._default: GroupRef | None = None

    def of(self, world: World) -> World:
        """The same world over a group of its own. All ranks ask together, on the training's thread."""
        if world.size == 1:
            return world
        default = default_group()
        assert default is not None, "several ranks always have a group"
        if self._default is None or self._default() is not default:
            self._group = dist.new_group(backend="gloo")
            self._default = weakref.ref(default)
        assert self._group is not None
        return replace(world, backend="gloo", beside=weakref.ref(self._group))


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raises StateError for what the system refused, with what was being done."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StateError(
            f"{doing} failed: {error.strerror or error}{where}. Free space on the disk, or save somewhere else. "
            "Earlier checkpoints are as they were."
        ) from error
