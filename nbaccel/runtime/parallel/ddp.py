"""Data parallel: every process has the whole model, gradients are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any

from torch import nn
from torch.distributed.algorithms.join import Join, Joinable
from torch.nn.parallel import DistributedDataParallel

from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.handlers import Handlers
from nbaccel.runtime.parallel.registry import refuse_sharded
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.world import World


class DataParallel(Strategy):
    """torch's DistributedDataParallel (https://arxiv.org/abs/2006.15704).

    Args:
        world: who trains together.
        device: where the model lies.
        handlers: hold the arguments of DistributedDataParallel; asked at each model.

    Raises:
        CallError: arguments that contradict each other.
    """

    def __init__(self, world: World, device: Device, handlers: Handlers) -> None:
        self._world, self._device, self._handlers = world, device, handlers
        handlers.ddp.check()

    def wrap(self, model: nn.Module) -> nn.Module:
        refuse_sharded(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model  # torch refuses what has nothing to average
        options = self._handlers.ddp
        joined = DistributedDataParallel(
            model, device_ids=self._device.ids, process_group=self._world.group, **options.to_kwargs()
        )
        options.register_comm_hook(joined)
        return joined

    def joins(self, model: nn.Module) -> bool:
        return isinstance(model, DistributedDataParallel)

    def window(self, accumulation: Accumulation, models: Sequence[Any]) -> AbstractContextManager[None]:
        return _Window(accumulation, models)

    def join(self, joinables: Sequence[Any]) -> AbstractContextManager[None] | None:
        known = [one for one in joinables if isinstance(one, Joinable)]
        return _joined(known) if known else None

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def _joined(joinables: list[Joinable]) -> Iterator[None]:
    block = Join(joinables, throw_on_early_termination=False)
    try:
        yield
        with warnings.catch_warnings(), block:  # it waits at its end, where it leaves a filter of warnings behind
            pass
    finally:
        Join(joinables, enable=False)  # else each later forward pass would go on asking who is done


@contextmanager
def sync_in_backward(model: nn.Module) -> Iterator[None]:
    """A `with` block around a backward pass that averages gradients, whatever its forward pass was to do.

    Args:
        model: a prepared model; anything but DDP's is left alone.
    """
    if not isinstance(model, DistributedDataParallel):
        yield
        return
    former = model.require_backward_grad_sync, model.require_forward_param_sync
    model.require_backward_grad_sync = model.require_forward_param_sync = True
    model.reducer.prepare_for_backward([])  # what the forward pass does where gradients are averaged
    try:
        yield
    finally:
        model.require_backward_grad_sync, model.require_forward_param_sync = former


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
