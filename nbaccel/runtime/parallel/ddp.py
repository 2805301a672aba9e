"""Data parallel: every process has the whole model, gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.handlers import DistributedDataParallelKwargs
from nbaccel.runtime.parallel.registry import refuse_sharded
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.world import World


class DataParallel(Strategy):
    """torch's DistributedDataParallel (https://arxiv.org/abs/2006.15704).

    Args:
        world: who trains together.
        device: where the model lies.
        options: arguments of DistributedDataParallel.
    """

    def __init__(self, world: World, device: Device, options: DistributedDataParallelKwargs) -> None:
        self._world, self._device, self._options = world, device, options

    def wrap(self, model: nn.Module) -> nn.Module:
        refuse_sharded(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model  # torch refuses what has nothing to average
        return DistributedDataParallel(
            model, device_ids=self._device.ids, process_group=self._world.group, **self._options.to_kwargs()
        )

    def joins(self, model: nn.Module) -> bool:
        return isinstance(model, DistributedDataParallel)

    def window(self, accumulation: Accumulation, models: Sequence[Any]) -> AbstractContextManager[None]:
        return _Window(accumulation, models)

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class _Window:
    """One micro-batch; gradients are averaged only if it completes a window."""

    __slots__ = ("_accumulation", "_local", "_models")

    def __init__(self, accumulation: Accumulation, models: Sequence[Any]) -> None:
        self._accumulation, self._models = accumulation, models
        self._local = ExitStack()

    def __enter__(self) -> None:
        if self._accumulation.advance() or self._accumulation.sync_each_batch:
            return
        for model in self._models:
            if isinstance(model, DistributedDataParallel):
                self._local.enter_context(model.no_sync())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._local.__exit__(kind, error, trace)
