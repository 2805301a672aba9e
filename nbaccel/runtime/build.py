"""Turns the plan's names into the parts of the runtime; the only place that knows which names there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nbaccel.config import RunConfig
from nbaccel.plan import Parts
from nbaccel.runtime.devices.cuda import CudaDevice
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.devices.mps import MpsDevice
from nbaccel.runtime.handlers import Handlers
from nbaccel.runtime.parallel.ddp import DataParallel
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.precision.autocast import BFloat16, Float16
from nbaccel.runtime.precision.precision import Precision
from nbaccel.runtime.world import World, configure, join_world, parts_for

DEVICES: Mapping[str, Callable[[torch.device], Device]] = {"cpu": Device, "cuda": CudaDevice, "mps": MpsDevice}

STRATEGIES: Mapping[str, Callable[[World, Device, Handlers], Strategy]] = {
    "single": lambda world, device, handlers: Strategy(),
    "ddp": lambda world, device, handlers: DataParallel(world, device, handlers.ddp),
}

PRECISIONS: Mapping[str, Callable[[torch.device, Handlers], Precision]] = {
    "no": lambda device, handlers: Precision(),
    "bf16": lambda device, handlers: BFloat16(device, handlers.autocast),
    "fp16": lambda device, handlers: Float16(device, handlers.autocast, handlers.scaler),
}


@dataclass(frozen=True)
class Runtime:
    """The parts that one `Accelerator` delegates to."""

    config: RunConfig
    parts: Parts
    world: World
    device: Device
    strategy: Strategy
    precision: Precision


def build(given: Mapping[str, object], handlers: Handlers) -> Runtime:
    """Settle the configuration, join the other processes and make the parts.

    Args:
        given: what the constructor was given, by key of the configuration.
        handlers: settings of the parts.

    Raises:
        ConfigError: a value makes no sense.
        PlanError: this machine cannot do what was asked.
    """
    config = configure(given)
    parts, topology = parts_for(config)
    world = join_world(parts, topology, handlers.process_group.options())
    device = DEVICES[world.device.type](world.device)
    strategy = STRATEGIES[parts.strategy](world, device, handlers)
    precision = PRECISIONS[parts.precision](world.device, handlers)
    return Runtime(config, parts, world, device, strategy, precision)
