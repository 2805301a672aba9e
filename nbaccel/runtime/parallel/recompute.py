"""Activation checkpointing (https://arxiv.org/abs/1604.06174): activations are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from nbaccel.runtime.parallel.sharding import Sharding
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.parallel.units import find_units
from nbaccel.runtime.precision.autocast import AutocastForward
from nbaccel.runtime.world import World


class RecomputedForward:
    """A module's forward pass whose activations are not kept; takes the place of `module.forward`.

    The module keeps its name, its class and its place, so that weights are called as before.

    Args:
        forward: the module's own method.
        offload: keep the pass's inputs in the CPU's memory meanwhile.
        pin: use page-locked memory for that.
    """

    def __init__(self, forward: Callable[..., Any], offload: bool = False, pin: bool = False) -> None:
        self.forward, self._offload, self._pin = forward, offload, pin
        self.__wrapped__ = forward  # so that inspect.signature shows the module's own arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._context():
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)

    def _context(self) -> AbstractContextManager[Any]:
        return save_on_cpu(pin_memory=self._pin) if self._offload else nullcontext()


def recompute(module: nn.Module, offload: bool, pin: bool) -> None:
    """Let a module compute its activations again in the backward pass; once is enough."""
    current = module.__dict__.get("forward")
    if isinstance(current, AutocastForward):  # it stays outermost, so that it can be taken off again
        if not isinstance(current.forward, RecomputedForward):
            current.forward = RecomputedForward(current.forward, offload, pin)
    elif not isinstance(current, RecomputedForward):
        module.forward = RecomputedForward(module.forward, offload, pin)


def recompute_units(model: nn.Module, units: Sequence[nn.Module], how: Sharding, world: World) -> None:
    """Let units, or a model without any, compute their activations again if that is asked for."""
    if how.recompute:
        for unit in units or [model]:
            recompute(unit, how.recompute_offload, pin=world.device.type == "cuda")


class Recomputing(Strategy):
    """One process that was to train by FSDP: nothing is sharded, activations are computed again.

    Args:
        how: what is a unit.
        world: where this process trains.
    """

    def __init__(self, how: Sharding, world: World) -> None:
        self._how, self._world = how, world

    def wrap(self, model: nn.Module) -> nn.Module:
        model = super().wrap(model)
        recompute_units(model, find_units(model, self._how.units, frozenset()), self._how, self._world)
        return model
