"""Which models and optimizers of this process are spread over ranks, in an order that all ranks share.

Light: whoever only asks whether there are any imports neither DTensor nor FSDP.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from nbaccel.errors import StateError
from nbaccel.runtime.groups import GroupRef, default_group, give_up_group

Kind = Literal["modules", "optimizers"]


@dataclass(frozen=True)
class Entry:
    """One model or optimizer.

    Attributes:
        number: its place in the order of preparation, equal on all ranks.
        kind: which of the two it is.
        owner: itself, held weakly.
        group: the process group that it is spread over, held weakly.
        settings: how it was sharded; None for an optimizer.
    """

    number: int
    kind: Kind
    owner: weakref.ref[Any]
    group: GroupRef | None
    settings: object = None


class _Known:
    numbers = itertools.count()
    entries: tuple[Entry, ...] = ()
    last: GroupRef | None = None


def note(owner: Any, kind: Kind, settings: object = None) -> None:
    """Remember a model or an optimizer that has just been spread over the ranks."""
    group = default_group()
    reference = None if group is None else weakref.ref(group)
    fresh = Entry(next(_Known.numbers), kind, weakref.ref(owner), reference, settings)
    _Known.entries = (*(old for old in _Known.entries if old.owner() is not None), fresh)
    _Known.last = reference


def entry_of(owner: Any) -> Entry | None:
    """What is known of a model or optimizer."""
    return next((entry for entry in _Known.entries if entry.owner() is owner), None)


def entries() -> Iterator[Entry]:
    """All that are alive and belong to the present process group."""
    group = default_group()
    for entry in _Known.entries:
        if entry.owner() is not None and entry.group is not None and entry.group() is group:
            yield entry


def is_in_use() -> bool:
    """Whether the present process group has ever sharded anything: equal on all ranks, whatever is alive on each."""
    group = default_group()
    return group is not None and _Known.last is not None and _Known.last() is group


def is_known_at_all() -> bool:
    """Whether this process has ever sharded anything."""
    return _Known.last is not None


def hold_group() -> None:
    """In a worker of nbaccel: keep the process group to the worker's end, as what is sharded comes home after the run.

    `end_training()` would take it down before.
    """
    if os.environ.get("NBACCEL_WORKER"):
        give_up_group()


def new_of(kind: type, *arguments: Any) -> Any:
    """In a pickle: an empty object of the class that a module had before it was sharded."""
    return kind.__new__(kind, *arguments)


def is_spread(value: Any) -> bool:
    """Whether a tensor is a DTensor, of which this process has a part."""
    return hasattr(value, "full_tensor")


def refuse_lost(model: nn.Module) -> None:
    """Raises StateError if the model's shards belong to a process group that has ended."""
    entry = entry_of(model)
    group = default_group()
    if entry is not None and (group is None or entry.group is None or entry.group() is not group):
        raise StateError(
            f"this {_own_name(model)} is spread by FSDP over a process group that has ended (after an interrupt, an "
            "error on another rank, or end_training). Its parts cannot be joined any more. Build the model and its "
            "optimizer again, load the last checkpoint into them, and prepare them."
        )


def refuse_sharded(model: nn.Module) -> None:
    """Raises StateError if FSDP has spread the model over ranks: nothing but FSDP can train it."""
    if any(map(is_spread, model.parameters())):
        raise StateError(
            f"this {_own_name(model)} is spread over ranks by FSDP, and this Accelerator does not use FSDP. Build the "
            "model again (accelerator.get_state_dict(model) of the former one gives its weights), or use FSDP."
        )


def _own_name(model: nn.Module) -> str:
    return type(model).__name__.removeprefix("FSDP")
