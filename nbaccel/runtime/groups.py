"""Process groups: made where there is none, and never kept alive: only torch itself holds one strongly."""

from __future__ import annotations

import atexit
import functools
import os
import time
import warnings
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
    timeout: timedelta | None = None
    own: GroupRef | None = None
    beside: ClassVar[weakref.WeakValueDictionary[tuple[int, str], dist.ProcessGroup]] = weakref.WeakValueDictionary()


def default_group() -> dist.ProcessGroup | None:
    """torch's default group, None if there is none."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def group_with(backend: str, options: GroupOptions) -> GroupRef | None:
    """Make sure that there is a group that speaks `backend`. All ranks must ask together.

    Args:
        backend: what it must speak.
        options: how to make it; a timeout counts for one that exists, too.

    Returns:
        None for the default group, else one beside it.
    """
    _end_well()
    default = default_group()
    if default is None:
        default = _make_default_group(backend, options)
    else:
        _adapt(default, options)
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
    store, rank, size = _Made.store
    _Made.count += 1
    _Made.timeout = options.timeout
    fresh = dist.PrefixStore(f"nbaccel/{_Made.count}", store)  # type: ignore[attr-defined]  # missing in torch's types
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, **timeout)
    made = default_group()
    assert made is not None
    _Made.own = weakref.ref(made)
    return made


def _adapt(group: dist.ProcessGroup, options: GroupOptions) -> None:
    """What was asked of a group that exists: its timeout can change, the place where its ranks have met cannot."""
    if options.timeout is not None:
        _Made.timeout = options.timeout
        dist.distributed_c10d._set_pg_timeout(options.timeout, group)
    if options.init_method is not None and (_Made.own is None or _Made.own() is not group):
        warnings.warn(
            f"init_method={options.init_method} changes nothing: there is a process group already, which somebody "
            "else has made. Leave init_process_group() to Accelerator(), or init_method out.",
            stacklevel=4,
        )


def asked_timeout() -> timedelta | None:
    """How long a collective of the default group may wait, None if nobody has said."""
    return _Made.timeout


def leave_group() -> None:
    """Take the default group down; one that somebody else made (a session of workers) is theirs to end and stays."""
    if _Made.own is not None and _Made.own() is not None and _Made.own() is default_group():
        time.sleep(_LAST_GRACE_S)  # a model may hold it last: torch then waits for gloo's threads with the lock held
        dist.destroy_process_group()
        _Made.timeout = None
    _Made.own = None


def give_up_group() -> None:
    """Leave the default group to the end of the process: somebody needs it after `leave_group`."""
    _Made.own = None


def note_regrouped() -> None:
    """Whoever owns the workers has formed the group anew on another store: what was made before is gone."""
    was_own, default = _Made.own is not None, default_group()
    _Made.store = None
    _Made.own = weakref.ref(default) if was_own and default is not None else None


@functools.cache
def _end_well() -> None:
    """Makes the end of the process safe, once.

    A thread of gloo lets go of a collective's tensors after the collective has returned, and needs Python for it. If
    the interpreter is ending by then, the process aborts (1 in 10 scripts that end with a collective).
    """
    atexit.register(_let_threads_finish)


def _let_threads_finish() -> None:
    _Made.store = None
    time.sleep(_LAST_GRACE_S)


_LAST_GRACE_S = 0.02
