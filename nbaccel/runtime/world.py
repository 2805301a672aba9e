"""The position of this process among all, and the process group that joins them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from nbaccel.config import RunConfig, call_layer, resolve
from nbaccel.machine import probe
from nbaccel.plan import Parts, Topology, choose_parts, topology_of


@dataclass(frozen=True)
class World:
    """Where this process stands and how it reaches the others.

    Attributes:
        rank: number of this process among all, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_size: number of processes on its machine.
        device: the device that this process trains on.
        backend: torch.distributed's backend for that device, None for one process.
        group: the process group to talk through, None for the default one.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    backend: str | None = None
    group: dist.ProcessGroup | None = None

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            on_cuda = self.backend == "nccl"
            dist.barrier(group=self.group, device_ids=[self.device.index] if on_cuda else None)


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


class _Here:
    """What this process knows of its world; a holder, so that it can be forgotten."""

    world: World | None = None
    store: tuple[Any, int, int] | None = None
    made: int = 0
    own_group: dist.ProcessGroup | None = None
    joined: dist.ProcessGroup | None = None
    beside: ClassVar[dict[tuple[dist.ProcessGroup, str], dist.ProcessGroup]] = {}


def current_world() -> World:
    """The world of the last `Accelerator` or state object; if there was none, the configured one is joined now."""
    if _Here.world is None or _default_group() not in (None, _Here.joined):  # a session may rebuild its group
        return join_world(*parts_for(configure({})))
    return _Here.world


def forget_world() -> None:
    """Makes the next `current_world()` look afresh; the process group stays."""
    _Here.world = None


def configure(given: Mapping[str, object]) -> RunConfig:
    """The configuration: what the constructor was given, over the environment, over the defaults."""
    return resolve(call_layer(given, layer="constructor")).config


def parts_for(config: RunConfig) -> tuple[Parts, Topology]:
    """Which parts this process is made of, and its position.

    Raises:
        PlanError: this machine cannot do what the configuration asks for.
    """
    topology = _topology(os.environ)
    return choose_parts(config, probe(), topology), topology


def _topology(environ: Mapping[str, str]) -> Topology:
    """The position that the launcher wrote, or that an existing process group knows."""
    told = topology_of(environ)
    if _default_group() is None:
        return told
    rank, size = dist.get_rank(), dist.get_world_size()
    if told.world_size == size:
        return told
    return Topology(rank, size, int(environ.get("LOCAL_RANK", rank)), int(environ.get("LOCAL_WORLD_SIZE", size)))


def join_world(parts: Parts, topology: Topology, options: GroupOptions | None = None) -> World:
    """Enter the process group that `parts` names, making it if there is none, and remember it as the current world.

    Args:
        parts: names the device and the backend.
        topology: position of this process.
        options: how to make the group.
    """
    options = options or GroupOptions()
    device = torch.device(parts.device)
    backend = (options.backend or parts.backend) if topology.world_size > 1 else None
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before any group exists: NCCL binds to the current device
    group = _group_with(backend, options) if backend else None
    _Here.world = World(
        topology.rank, topology.world_size, topology.local_rank, topology.local_world_size, device, backend, group
    )
    _Here.joined = _default_group()
    return _Here.world


def _default_group() -> dist.ProcessGroup | None:
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _group_with(backend: str, options: GroupOptions) -> dist.ProcessGroup | None:
    """The default group if it speaks `backend`, else one beside it that does."""
    default = _default_group() or _make_default_group(backend, options)
    if backend in dist.get_backend_config():
        return None
    key = (default, backend)
    if key not in _Here.beside:
        _Here.beside[key] = dist.new_group(backend=backend, timeout=options.timeout)
    return _Here.beside[key]


def _make_default_group(backend: str, options: GroupOptions) -> dist.ProcessGroup:
    """Join the group; the store where the ranks meet outlives it.

    Were it made anew for a second group, as torch does, a fast rank could still reach the first one's store on the
    same port, and wait there for ever.
    """
    timeout: dict[str, Any] = {} if options.timeout is None else {"timeout": options.timeout}
    if _Here.store is None:
        place = options.init_method or "env://"
        rank, size = (int(os.environ[name]) if name in os.environ else -1 for name in ("RANK", "WORLD_SIZE"))
        _Here.store = next(iter(rendezvous(place, rank, size, **timeout)))
    store, rank, size = _Here.store
    _Here.made += 1
    fresh = dist.PrefixStore(f"nbaccel/{_Here.made}", store)  # type: ignore[attr-defined]  # missing in torch's types
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, **timeout)
    _Here.own_group = _default_group()
    assert _Here.own_group is not None
    return _Here.own_group


def leave_group() -> None:
    """Take the process group down; one that somebody else made (a session of workers) is theirs to end and stays."""
    if _Here.own_group is not None and _Here.own_group is _default_group():
        dist.destroy_process_group()
    _Here.own_group = None
    _Here.beside.clear()
