"""Process groups live on until the next job: torch must not be the one who lets the last of them go.

A DDP model that is dropped after `destroy_process_group()` holds the last reference to its group. torch then waits for
gloo's threads with Python's lock held, while they wait for that lock to let go of a tensor: one run in five hangs for
ever. Python's own handle on a group gives the lock away first, so it is enough that such a handle goes last.
"""

from __future__ import annotations

from typing import Any


class KeptGroups(dict[Any, Any]):
    """In place of torch's table of groups; also holds those that were taken out of it."""

    def __init__(self, groups: dict[Any, Any]) -> None:
        super().__init__(groups)
        self._kept: list[Any] = list(groups)

    def __setitem__(self, group: Any, value: Any) -> None:
        self._kept.append(group)
        super().__setitem__(group, value)

    @property
    def any_formed(self) -> bool:
        """Whether a group was formed since the last `let_go`, or is there."""
        return bool(self._kept)

    def let_go(self) -> None:
        """Hold no more than torch does."""
        self._kept = list(self)


def keep_groups() -> KeptGroups:
    """From now on, groups of this process are kept."""
    from torch import distributed

    if not distributed.is_available():
        return KeptGroups({})
    from torch.distributed import distributed_c10d

    groups = KeptGroups(distributed_c10d._pg_map)
    distributed_c10d._pg_map = groups
    return groups
