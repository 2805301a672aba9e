"""Turns the plan's names into the parts of the runtime; the only place that knows which names there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from nbaccel.config import Layer, Resolved
from nbaccel.config.launched import resolve_in_worker
from nbaccel.errors import PlanError
from nbaccel.plan import Parts, with_places
from nbaccel.runtime.devices.cuda import CudaDevice
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.devices.mps import MpsDevice
from nbaccel.runtime.handlers import Handlers
from nbaccel.runtime.parallel.ddp import DataParallel
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.plugins import Plugins
from nbaccel.runtime.precision.autocast import BFloat16, Float16
from nbaccel.runtime.precision.precision import Precision
from nbaccel.runtime.world import World, join_world, parts_for

DEVICES: Mapping[str, Callable[[torch.device], Device]] = {"cpu": Device, "cuda": CudaDevice, "mps": MpsDevice}


@dataclass(frozen=True)
class Site:
    """What a strategy is built from.

    Attributes:
        parts: the plan's names.
        world: who trains together.
        device: where this process trains.
        handlers: settings of the parts.
        resolved: the configuration.
        plugins: what no file can say.
    """

    parts: Parts
    world: World
    device: Device
    handlers: Handlers
    resolved: Resolved
    plugins: Plugins


def _fully_sharded(site: Site) -> Strategy:
    try:
        from nbaccel.runtime.parallel.fsdp import FullySharded  # slow to import, and rarely needed
    except ImportError as error:
        raise PlanError(
            "distributed_type='FSDP'", f"this torch {torch.__version__} has no fully_shard.", "Use torch 2.6 or newer."
        ) from error
    from nbaccel.runtime.parallel.sharding import notes, sharding_of

    config = site.resolved.config.fsdp_config
    given = frozenset(name.rpartition(".")[2] for name in site.resolved.given() if name.startswith("fsdp_config."))
    for note in notes(config, given) if site.world.rank == 0 else ():
        warnings.warn(note, stacklevel=4)
    return FullySharded(site.world, site.parts.mesh, sharding_of(config, site.parts.precision, site.plugins.fsdp))


def _alone(site: Site) -> Strategy:
    """One process; with FSDP it recomputes activations as several would."""
    config = site.resolved.config
    if config.distributed_type != "FSDP" or not config.fsdp_config.fsdp_activation_checkpointing:
        return Strategy()
    from nbaccel.runtime.parallel.recompute import Recomputing
    from nbaccel.runtime.parallel.sharding import sharding_of

    return Recomputing(sharding_of(config.fsdp_config, site.parts.precision, site.plugins.fsdp), site.world)


STRATEGIES: Mapping[str, Callable[[Site], Strategy]] = {
    "single": _alone,
    "ddp": lambda site: DataParallel(site.world, site.device, site.handlers.ddp),
    "fsdp": _fully_sharded,
}

PRECISIONS: Mapping[str, Callable[[torch.device, Handlers], Precision]] = {
    "no": lambda device, handlers: Precision(),
    "bf16": lambda device, handlers: BFloat16(device, handlers.autocast),
    "fp16": lambda device, handlers: Float16(device, handlers.autocast, handlers.scaler),
}


@dataclass(frozen=True)
class Runtime:
    """The parts that one `Accelerator` delegates to."""

    resolved: Resolved
    parts: Parts
    world: World
    device: Device
    strategy: Strategy
    precision: Precision
    plugins: Plugins = field(default_factory=Plugins)


def build(given: Layer, handlers: Handlers, plugins: Plugins | None = None) -> Runtime:
    """Settle the configuration, join the other processes and make the parts.

    Args:
        given: the constructor's layer.
        handlers: settings of the parts.
        plugins: objects of the constructor, whose settings are in its layer, too.

    Raises:
        ConfigError: a value makes no sense.
        PlanError: this machine cannot do what was asked.
    """
    resolved = resolve_in_worker(given)
    parts, topology = with_places(resolved, parts_for)
    handlers = handlers.completed(resolved.config)
    world = join_world(parts, topology, handlers.process_group.options())
    device = DEVICES[world.device.type](world.device)
    plugins = plugins or Plugins()
    strategy = STRATEGIES[parts.strategy](Site(parts, world, device, handlers, resolved, plugins))
    precision = PRECISIONS[parts.precision](world.device, handlers)
    return Runtime(resolved, parts, world, device, strategy, precision, plugins)
