"""What `prepare` does: each object is made part of the training, once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.build import Runtime
from nbaccel.runtime.compiling import own_module, strip_compiled
from nbaccel.runtime.data.loader import PreparedLoader, prepare_loader
from nbaccel.runtime.data.settings import Settings, Slice
from nbaccel.runtime.groups import GroupRef, default_group
from nbaccel.runtime.handlers import DataLoaderConfiguration
from nbaccel.runtime.modules import lies_on_several_devices
from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.scheduler import AcceleratedScheduler
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.unwrap import extract_model_from_parallel


class Preparation:
    """Prepares objects for one `Accelerator` and knows which it has prepared.

    An object that another `Accelerator` has prepared (a cell that was run twice) is taken out of its wrappers and
    prepared afresh.

    Args:
        runtime: the parts of the training.
        gradients: says whether gradients are complete.
        loaders: how batches are shared.
        rng_types: which random states are made equal when a pass over a loader begins.
        place: whether models, optimizers and batches are moved to the device.
        step_with_optimizer: whether schedulers follow the optimizers.
    """

    def __init__(
        self,
        runtime: Runtime,
        gradients: GradientState,
        loaders: DataLoaderConfiguration,
        rng_types: Collection[str],
        place: bool,
        step_with_optimizer: bool,
    ) -> None:
        self._runtime, self._gradients, self._config = runtime, gradients, loaders
        self._rng_types, self._place, self._step_with_optimizer = rng_types, place, step_with_optimizer
        self._group: GroupRef | None = None
        self.models: list[nn.Module] = []
        self.optimizers: list[AcceleratedOptimizer] = []
        self.schedulers: list[AcceleratedScheduler] = []
        self.loaders: list[PreparedLoader] = []

    def all_of(self, objects: Sequence[Any], placements: Sequence[bool | None] | None) -> tuple[Any, ...]:
        """Prepare objects of any kind, in any order.

        Args:
            objects: models, optimizers, loaders and schedulers; anything else passes through.
            placements: for each object whether to move it to the device; None as the constructor said.

        Raises:
            CallError: there are not as many placements as objects.
        """
        if placements is not None and len(placements) != len(objects):
            raise CallError(
                f"prepare(device_placement=...) holds {len(placements)} values for {len(objects)} objects. "
                "Give one per object, or leave it out."
            )
        places = placements or [None] * len(objects)
        ready = [self._first(item, place) for item, place in zip(objects, places, strict=True)]
        return tuple(self._second(item) for item in ready)  # schedulers look for their prepared optimizers

    def _first(self, item: Any, place: bool | None) -> Any:
        if isinstance(item, nn.Module):
            return self.model(item, place)
        if isinstance(item, Optimizer):
            return self.optimizer(item, place)
        if isinstance(item, DataLoader):
            return self.loader(item, place)
        return item

    def _second(self, item: Any) -> Any:
        return self.scheduler(item) if isinstance(item, (LRScheduler, AcceleratedScheduler)) else item

    def model(self, model: nn.Module, place: bool | None = None, evaluation_mode: bool = False) -> nn.Module:
        """A model on the device, in the precision of the training, joined with the other processes.

        Args:
            model: any module.
            place: whether to move it; None as the constructor said.
            evaluation_mode: do not join it with the other processes.

        Raises:
            StateError: FSDP has sharded it over a process group that has ended, or in another way.
            CallError: FSDP does not find its units.
        """
        own = _own(model)
        self._forget_lost()
        known = _find(self.models, lambda prepared: _own(prepared) is own)
        if known is not None:
            return known
        strip_compiled(own)
        extract_model_from_parallel(own, keep_fp32_wrapper=False)
        if self._wanted(place) and not lies_on_several_devices(own):
            place_model = nn.Module.to if evaluation_mode else self._runtime.strategy.place
            own = place_model(own, self._runtime.world.device)
        self._runtime.precision.wrap(own)
        strategy = self._runtime.strategy
        own = self._runtime.compiler.compile(own, in_place=strategy.spreads and not evaluation_mode)
        prepared = own if evaluation_mode else strategy.wrap(own)
        self.models.append(prepared)
        for optimizer in self.optimizers:
            self._runtime.strategy.adopt(optimizer.optimizer)
            optimizer.place_state()
        return prepared

    def _forget_lost(self) -> None:
        """Models that were joined over a process group which has gone since are joined anew."""
        group = default_group()
        if self._group is None or self._group() is not group:
            self.models = [one for one in self.models if not self._runtime.strategy.joins(one)]
            self._group = None if group is None else weakref.ref(group)

    def optimizer(self, optimizer: Optimizer, place: bool | None = None) -> AcceleratedOptimizer:
        """An optimizer that steps where gradients are complete."""
        own = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        known = _find(self.optimizers, lambda prepared: prepared.optimizer is own)
        if known is not None:
            return known
        self._runtime.strategy.adopt(own)
        device = self._runtime.world.device if self._wanted(place) else None
        prepared = AcceleratedOptimizer(own, self._gradients, self._runtime.precision, device)
        self.optimizers.append(prepared)
        return prepared

    def loader(
        self, loader: DataLoader[Any], place: bool | None = None, slice_fn: Slice | None = None
    ) -> PreparedLoader:
        """A loader that hands out this process's batches.

        Args:
            loader: any DataLoader.
            place: whether batches go to the device; None as the constructor said.
            slice_fn: cuts pieces out of what the main process has read; None slices tensors.

        Raises:
            PlanError: the loader cannot be shared among processes.
        """
        own = loader.original if isinstance(loader, PreparedLoader) else loader
        known = _find(self.loaders, lambda prepared: prepared.original is own)
        if known is not None:
            return known
        device = self._runtime.device if self._wanted(place) else None
        how = replace(Settings.of(self._config), slice_fn=slice_fn)
        prepared = prepare_loader(own, self._runtime.world, self._gradients, device, how, self._rng_types)
        self.loaders.append(prepared)
        return prepared

    def scheduler(self, scheduler: LRScheduler | AcceleratedScheduler) -> AcceleratedScheduler:
        """A scheduler that moves when its optimizer does; one whose optimizer is unknown follows all of them."""
        own = scheduler.scheduler if isinstance(scheduler, AcceleratedScheduler) else scheduler
        known = _find(self.schedulers, lambda prepared: prepared.scheduler is own)
        if known is not None:
            return known
        moves = own.optimizer
        followed = [one for one in self.optimizers if moves is one or moves is one.optimizer] or self.optimizers
        steps = 1 if self._config.split_batches else self._runtime.world.size
        prepared = AcceleratedScheduler(own, followed, steps, self._step_with_optimizer, self._gradients)
        self.schedulers.append(prepared)
        return prepared

    def unscale(self, parameters: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Bring the gradients of these parameters to their true size (fp16), and return the parameters as a list.

        Raises:
            StateError: more micro-batches will be added to these gradients, at the old size.
        """
        listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        if self._runtime.precision.can_skip:
            if not self._gradients.sync_gradients:
                raise StateError(
                    "gradients cannot be clipped or unscaled in the middle of an accumulation window with "
                    "mixed_precision='fp16'. Write `if accelerator.sync_gradients:` before it."
                )
            chosen = {id(parameter) for parameter in listed}
            for optimizer in self.optimizers:
                groups = optimizer.param_groups
                if any(id(parameter) in chosen for group in groups for parameter in group["params"]):
                    self._runtime.precision.unscale(optimizer.optimizer)
        return listed

    def clear(self) -> None:
        """Forget everything."""
        for known in (self.models, self.optimizers, self.schedulers, self.loaders):
            known.clear()

    def _wanted(self, place: bool | None) -> bool:
        return self._place if place is None else place


def _own(model: nn.Module) -> nn.Module:
    return own_module(extract_model_from_parallel(model))


def _find(prepared: Iterable[Any], fits: Callable[[Any], bool]) -> Any:
    return next((item for item in prepared if fits(item)), None)
