"""The position of this process among all, and the process group that joins them."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from nbaccel.config import RunConfig, call_layer
from nbaccel.config.launched import LAUNCHED, resolve_in_worker
from nbaccel.machine import probe
from nbaccel.plan import Parts, Topology, choose_parts, topology_of
from nbaccel.runtime.groups import GroupOptions, GroupRef, default_group, group_with
from nbaccel.runtime.seen_gpus import as_torch_sees
from nbaccel.runtime.xla.starting import begin_tpu, begin_xla

_ON_DEVICE = ("nccl", "tpu_dist")
"""Backends that carry tensors of the device alone."""


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
        beside: the process group to talk through where the default one cannot serve the device.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    backend: str | None = None
    beside: GroupRef | None = None

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The process group to talk through, None for the default one."""
        return None if self.beside is None else self.beside()

    @property
    def group_device(self) -> torch.device:
        """Where the process group finds what it carries: for gloo in the host's memory."""
        return self.device if self.backend in _ON_DEVICE else torch.device("cpu")

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            on_cuda = self.backend == "nccl"
            dist.barrier(group=self.group, device_ids=[self.device.index] if on_cuda else None)


class _Here:
    """What this process knows of its world; a holder, so that it can be forgotten."""

    world: World | None = None
    joined: GroupRef | None = None


def current_world() -> World:
    """The world of the last `Accelerator` or state object; if there was none, the configured one is joined now."""
    default = default_group()
    rebuilt = default is not None and (_Here.joined is None or _Here.joined() is not default)  # by a session
    if _Here.world is None or rebuilt:
        return join_world(*parts_for(configure({})))
    return _Here.world


def forget_world() -> None:
    """Makes the next `current_world()` look afresh; the process group stays."""
    _Here.world = None


def rejoin_world() -> World | None:
    """After the process group was formed anew: the same world, on the new group."""
    default = default_group()
    if _Here.world is None or default is None:
        return _Here.world
    beside = group_with(_Here.world.backend, GroupOptions()) if _Here.world.backend else None
    _Here.world, _Here.joined = replace(_Here.world, beside=beside), weakref.ref(default)
    return _Here.world


def configure(given: Mapping[str, object]) -> RunConfig:
    """The configuration: what the constructor was given, over what the launch settled, or all other layers."""
    return resolve_in_worker(call_layer(given, layer="constructor")).config


def parts_for(config: RunConfig) -> tuple[Parts, Topology]:
    """Which parts this process is made of, and its position.

    Raises:
        PlanError: this machine cannot do what the configuration asks for.
    """
    topology = _topology(os.environ)
    if config.use_cpu or config.distributed_type == "MULTI_CPU":
        return choose_parts(config, probe(), topology), topology
    machine = as_torch_sees(probe(), _is_planned_for_cpu(os.environ))
    parts = choose_parts(config, machine, topology)
    obstacle = machine.gpu_obstacle
    if obstacle is not None and parts.device == "cpu" and topology.local_rank == 0:
        warnings.warn(f"training on the CPU: {obstacle.text} {obstacle.remedy}", stacklevel=5)
    return parts, topology


def _is_planned_for_cpu(environ: Mapping[str, str]) -> bool:
    return LAUNCHED in environ and environ.get("ACCELERATE_USE_CPU") == "true"


def _topology(environ: Mapping[str, str]) -> Topology:
    """The position that the launcher wrote, or that an existing process group knows."""
    told = topology_of(environ)
    if default_group() is None:
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
    device = _begun(parts, topology)
    backend = (options.backend or parts.backend) if topology.world_size > 1 else None
    beside = group_with(backend, options) if backend else None
    _Here.world = World(
        topology.rank, topology.world_size, topology.local_rank, topology.local_world_size, device, backend, beside
    )
    default = default_group()
    _Here.joined = None if default is None else weakref.ref(default)
    return _Here.world


def _begun(parts: Parts, topology: Topology) -> torch.device:
    """The device, ready to compute: before any group exists, since NCCL binds to the current device."""
    kind = parts.device.partition(":")[0]
    if kind == "xla":
        begin_xla(topology, spmd=parts.strategy == "spmd")
    elif kind == "tpu":
        begin_tpu()
    device = torch.device(parts.device)
    if kind == "cuda":
        torch.cuda.set_device(device)
    return device
