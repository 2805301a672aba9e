"""Process groups: made where there is none, and never kept alive.

A group that still lives when the interpreter ends takes the process down with it (gloo's threads), so that only torch
itself holds one strongly.
"""

from __future__ import annotations

import atexit
import os
import weakref
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

GroupRef = weakref.ref[dist.ProcessGroup]


@dataclass(frozen=True)
class GroupOptions:
    """How to make the process group.

    Attributes:
        backend: torch.distributed's backend, None for the one that fits the device.
        init_method: where the ranks meet, None for the environment's MASTER_ADDR and MASTER_PORT.
        timeout: how long a collective may wait, None for torch's default.
    """

    backend: str | None = None
    init_method: str | None = None
    timeout: timedelta | None = None


class _Made:
    """What this module made in this process."""

    store: tuple[Any, int, int] | None = None
    count: int = 0
    own: GroupRef | None = None
    beside: ClassVar[weakref.WeakValueDictionary[tuple[int, str], dist.ProcessGroup]] = weakref.WeakValueDictionary()


def default_group() -> dist.ProcessGroup | None:
    """torch's default group, None if there is none."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def group_with(backend: str, options: GroupOptions) -> GroupRef | None:
    """Make sure that there is a group that speaks `backend`. All ranks must ask together.

    Args:
        backend: what it must speak.
        options: how to make it.

    Returns:
        None for the default group, else one beside it.
    """
    default = default_group() or _make_default_group(backend, options)
    if backend in dist.get_backend_config():
        return None
    key = (id(default), backend)
    if key not in _Made.beside:
        _Made.beside[key] = dist.new_group(backend=backend, timeout=options.timeout)
    return weakref.ref(_Made.beside[key])


def _make_default_group(backend: str, options: GroupOptions) -> dist.ProcessGroup:
    """Join the group; the store where the ranks meet outlives it.

    Were it made anew for a second group, as torch does, a fast rank could still reach the first one's store on the
    same port, and wait there for ever.
    """
    timeout: dict[str, Any] = {} if options.timeout is None else {"timeout": options.timeout}
    if _Made.store is None:
        place = options.init_method or "env://"
        rank, size = (int(os.environ[name]) if name in os.environ else -1 for name in ("RANK", "WORLD_SIZE"))
        _Made.store = next(iter(rendezvous(place, rank, size, **timeout)))
        atexit.register(_forget_store)
    store, rank, size = _Made.store
    _Made.count += 1
    fresh = dist.PrefixStore(f"nbaccel/{_Made.count}", store)  # type: ignore[attr-defined]  # missing in torch's types
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, **timeout)
    made = default_group()
    assert made is not None
    _Made.own = weakref.ref(made)
    return made


def leave_group() -> None:
    """Take the default group down; one that somebody else made (a session of workers) is theirs to end and stays."""
    if _Made.own is not None and _Made.own() is not None and _Made.own() is default_group():
        dist.destroy_process_group()
    _Made.own = None


def _forget_store() -> None:
    _Made.store = None
