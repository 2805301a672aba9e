"""Turns the plan's names into the parts of the runtime; the only place that knows which names there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from nbaccel.config import Layer, Resolved, Setting
from nbaccel.config.launched import resolve_in_worker
from nbaccel.errors import PlanError
from nbaccel.plan import Parts, with_places
from nbaccel.runtime.compiling import DEFAULT_BACKEND, Compiler, TorchDynamoPlugin, compiler_for
from nbaccel.runtime.devices.cuda import CudaDevice
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.devices.mps import MpsDevice
from nbaccel.runtime.devices.tpu import TpuDevice
from nbaccel.runtime.devices.xla import XlaDevice
from nbaccel.runtime.handlers import Handlers
from nbaccel.runtime.parallel.ddp import DataParallel
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.plugins import Plugins
from nbaccel.runtime.precision.autocast import BFloat16, Float16
from nbaccel.runtime.precision.downcast import Downcast
from nbaccel.runtime.precision.precision import Precision
from nbaccel.runtime.versions import is_torch_version
from nbaccel.runtime.world import World, join_world, parts_for

DEVICES: Mapping[str, Callable[[torch.device], Device]] = {
    "cpu": Device,
    "cuda": CudaDevice,
    "mps": MpsDevice,
    "xla": XlaDevice,
    "tpu": TpuDevice,
}


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
    if not is_torch_version(">=", "2.7"):
        raise PlanError(
            "distributed_type='FSDP'",
            f"the fully_shard of torch {torch.__version__} is not yet complete.",
            "Use torch 2.7 or newer.",
        )
    from nbaccel.runtime.parallel.fsdp import FullySharded  # slow to import, and rarely needed
    from nbaccel.runtime.parallel.sharding import completed, notes, sharding_of

    config, plugin = site.resolved.config.fsdp_config, site.plugins.fsdp
    given = frozenset(name.rpartition(".")[2] for name in site.resolved.given() if name.startswith("fsdp_config."))
    said = [*notes(config, given), *(plugin.notes() if plugin else ())]
    for note in said if site.world.rank == 0 else ():
        warnings.warn(note, stacklevel=4)
    sharding = sharding_of(config, site.parts.precision, plugin)
    return FullySharded(site.world, site.parts.mesh, sharding, completed(plugin, config))


def _alone(site: Site) -> Strategy:
    """One process; with FSDP it recomputes activations as several would."""
    config = site.resolved.config
    if config.distributed_type != "FSDP" or not config.fsdp_config.fsdp_activation_checkpointing:
        return Strategy()
    from nbaccel.runtime.parallel.recompute import Recomputing
    from nbaccel.runtime.parallel.sharding import sharding_of

    return Recomputing(sharding_of(config.fsdp_config, site.parts.precision, site.plugins.fsdp), site.world)


_HONOURED_ON_XLA = ("fsdp_config.fsdp_version", "fsdp_config.fsdp_sharding_strategy")


def _all_chips(site: Site) -> Strategy:
    from nbaccel.runtime.parallel.xla import AllChips  # with DTensor, which few need

    config = site.resolved.config
    is_fsdp = config.distributed_type == "FSDP"
    idle = [name for name in site.resolved.given() if name.startswith("fsdp_config.") and name not in _HONOURED_ON_XLA]
    if is_fsdp and idle:
        warnings.warn(
            f"on a TPU XLA decides how parameters are joined; without effect: {', '.join(idle)}", stacklevel=4
        )
    return AllChips(site.world, shards=is_fsdp and config.fsdp_config.fsdp_sharding_strategy != "NO_SHARD")


def _process_per_chip(site: Site) -> Strategy:
    from nbaccel.runtime.parallel.xla import ProcessPerChip

    return ProcessPerChip(site.world)


STRATEGIES: Mapping[str, Callable[[Site], Strategy]] = {
    "single": _alone,
    "ddp": lambda site: DataParallel(site.world, site.device, site.handlers),
    "fsdp": _fully_sharded,
    "spmd": _all_chips,
    "xla": _process_per_chip,
}

PRECISIONS: Mapping[str, Callable[[torch.device, Handlers], Precision]] = {
    "no": lambda device, handlers: Precision(),
    "bf16": lambda device, handlers: BFloat16(device, handlers.autocast),
    "fp16": lambda device, handlers: Float16(device, handlers.autocast, handlers.scaler),
    "downcast": lambda device, handlers: Downcast(device, handlers.autocast),
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
    handlers: Handlers = field(default_factory=Handlers)
    compiler: Compiler = field(default_factory=Compiler)
    dynamo: TorchDynamoPlugin = field(default_factory=TorchDynamoPlugin)


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
    plugins = plugins or Plugins()
    resolved = _resolved(given, plugins)
    parts, topology = with_places(resolved, parts_for)
    handlers = handlers.completed(resolved.config)
    compiler, dynamo = compiler_for(plugins.dynamo, resolved.config)
    world = join_world(parts, topology, handlers.process_group.options())
    device = DEVICES[world.device.type](world.device)
    strategy = STRATEGIES[parts.strategy](Site(parts, world, device, handlers, resolved, plugins))
    precision = PRECISIONS["downcast" if parts.downcast else parts.precision](world.device, handlers)
    return Runtime(resolved, parts, world, device, strategy, precision, plugins, handlers, compiler, dynamo)


def _resolved(given: Layer, plugins: Plugins) -> Resolved:
    """The configuration; a plugin that says how to compile, but not by what, means what torch takes by default."""
    resolved = resolve_in_worker(given)
    key, value, place = DEFAULT_BACKEND
    if plugins.dynamo is None or not plugins.dynamo.says_how() or resolved.origin(key).layer != "default":
        return resolved
    return resolve_in_worker({**given, key: Setting(value, "constructor", place)})
