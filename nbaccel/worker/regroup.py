"""The worker's process group: the store where ranks meet, and a new group after an interrupt.

A collective that was cut off leaves its group poisoned: measured, the next all-reduce silently added a stale value. So
after an interrupt the group is always formed anew, on a store of its own, and what was prepared on the old one refuses.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from nbaccel.errors import StateError
from nbaccel.wire.messages import Regroup, WorkerSpec
from nbaccel.worker.groups import keep_groups
from nbaccel.worker.monitor import Connections

_STORE_TIMEOUT_S = 300
_REGROUP_TIMEOUT_S = 20


class Group:
    """This worker's part in the process group, and the store if it serves it."""

    def __init__(self, spec: WorkerSpec, connections: Connections) -> None:
        self._spec, self._connections = spec, connections
        self.kept = keep_groups()
        self._store_is_used = False
        self._stores: list[object] = []  # they live as long as the process: other ranks may need one to the end

    def serve_store(self, descriptors: Sequence[int]) -> None:
        """Serve the rendezvous store on the listening socket that came along, if one did."""
        if not descriptors:
            return
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            world_size=self._spec.world_size,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=_STORE_TIMEOUT_S),
            master_listen_fd=descriptors[0],
        )
        self._stores.append(store)

    def state(self) -> tuple[str, int] | None:
        """Backend of the default process group and how many collectives it has seen.

        None without one; an empty name when one was formed and has gone: the next one would find its traces.
        """
        dist = _initialized()
        if dist is None:
            return ("", 0) if self._store_is_used or self.kept.any_formed else None
        self._store_is_used = True
        group = dist.distributed_c10d._get_default_group()
        try:
            return str(dist.get_backend()), int(group._get_sequence_number_for_group())
        except RuntimeError:  # a backend that does not count
            return str(dist.get_backend()), 0

    def begin_run(self) -> None:
        """A run begins: groups that the last one has taken down may go."""
        self._store_is_used |= self.kept.any_formed
        self.kept.let_go()

    def regroup(self, message: Regroup, descriptors: Sequence[int]) -> None:
        """Leave the old group, whatever it is stuck in, and form a new one if all ranks had one."""
        dist = _initialized()
        backend = None if dist is None else dist.get_backend()
        if dist is not None:
            self._abandon(dist)
        self._stores.clear()
        self._store_is_used = False
        self.kept.let_go()
        os.environ |= {"MASTER_ADDR": message.host, "MASTER_PORT": str(message.port)}
        self.serve_store(descriptors)
        if dist is not None and message.again:
            dist.init_process_group(backend, timeout=timedelta(seconds=_REGROUP_TIMEOUT_S))
            _restore_timeout(dist)
        _tell_runtime()

    def quit(self) -> None:
        """This rank has ended: whoever waits for it fails at once, as when its process ends."""
        if _initialized() is not None:
            self._connections.cut()

    def _abandon(self, dist: Any) -> None:
        """Leave the old group, whatever its threads are stuck in."""
        _refuse_models()
        self._connections.cut()
        with suppress(Exception):  # a broken group may refuse in any way; it is dropped either way
            dist.destroy_process_group()


def _initialized() -> Any:
    dist: Any = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _refuse_models() -> None:
    """Let models that synchronise over the old group say so when they are called, instead of hanging."""
    kinds = tuple(_synchronising_kinds())
    for one in gc.get_objects():
        if kinds and issubclass(type(one), kinds):  # isinstance would ask lazy proxies
            one.register_forward_pre_hook(_refuse, prepend=True)  # FSDP gathers in a hook of its own
            if hasattr(getattr(one, "reducer", None), "_remove_autograd_hooks"):
                one.reducer._remove_autograd_hooks()  # else they fire in the backward pass of the next wrapper too


def _synchronising_kinds() -> Iterator[type]:
    places = {
        "torch.nn.parallel.distributed": "DistributedDataParallel",
        "torch.distributed.fsdp": "FullyShardedDataParallel",
        "torch.distributed.fsdp._fully_shard": "FSDPModule",
    }
    for module, name in places.items():
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            yield kind


def _refuse(model: Any, _inputs: object) -> None:
    raise StateError(
        f"this {type(model).__name__} model belongs to a process group that was ended by an interrupt or an error on "
        f"another rank. {_remedy(model)}"
    )


def _remedy(model: Any) -> str:
    if any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__):
        return "Its parts cannot be joined any more: build it again, load the last checkpoint, and prepare it."
    return "Its weights are whole: prepare (or wrap) the inner model again, then train on."


def _restore_timeout(dist: Any) -> None:
    """Forming the group must not take long, but what runs on it may."""
    groups = sys.modules.get("nbaccel.runtime.groups")
    asked = None if groups is None else groups.asked_timeout()
    timeout = dist.distributed_c10d.default_pg_timeout if asked is None else asked
    dist.distributed_c10d._set_pg_timeout(timeout, None)


def _tell_runtime() -> None:
    """What nbaccel's runtime remembers of the old group is out of date."""
    groups, world = sys.modules.get("nbaccel.runtime.groups"), sys.modules.get("nbaccel.runtime.world")
    state = sys.modules.get("nbaccel.runtime.state")
    if groups is not None and world is not None and state is not None:
        groups.note_regrouped()
        state.PartialState.rejoin()
