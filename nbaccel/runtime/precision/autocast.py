"""Mixed precision by `torch.autocast`: float32 weights, matrix work in 16 bits."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbaccel.errors import StateError
from nbaccel.runtime.handlers import AutocastKwargs, GradScalerKwargs
from nbaccel.runtime.nested import map_leaves
from nbaccel.runtime.precision.precision import Precision, Skipped
from nbaccel.runtime.precision.scaler import Scaler

HALVES = (torch.float16, torch.bfloat16)


class AutocastForward:
    """A model's forward pass under autocast, with float32 outputs; takes the place of `model.forward`.

    Args:
        forward: the model's own method.
        context: makes the autocast block.

    Attributes:
        forward: the model's own method.
    """

    def __init__(self, forward: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]]) -> None:
        self.forward, self._context = forward, context
        self.__wrapped__ = forward  # so that inspect.signature shows the model's own arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._context():
            outputs = self.forward(*args, **kwargs)
        return map_leaves(_as_float32, outputs)


def strip_autocast(model: nn.Module) -> None:
    """Give a model its own forward pass back."""
    wrapper = model.__dict__.get("forward")
    if not isinstance(wrapper, AutocastForward):
        return
    del model.forward
    own = wrapper.forward
    if getattr(own, "__func__", None) is not type(model).forward:
        model.forward = own  # it was replaced on the object before


def _as_float32(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype in HALVES else leaf


class BFloat16(Precision):
    """bfloat16: the range of float32, so that no loss scaling is needed.

    Args:
        device: where the model computes.
        options: arguments of `torch.autocast`.
    """

    dtype = torch.bfloat16

    def __init__(self, device: torch.device, options: AutocastKwargs) -> None:
        self._device, self._options = device, options

    def wrap(self, model: nn.Module) -> None:
        if not isinstance(model.__dict__.get("forward"), AutocastForward):
            model.forward = AutocastForward(model.forward, self._maker(self._options))

    def autocast(self, options: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        return self._maker(options or self._options)()

    def _maker(self, options: AutocastKwargs) -> Callable[[], AbstractContextManager[Any]]:
        return partial(
            torch.autocast,
            self._device.type,
            dtype=self.dtype,
            enabled=options.enabled,
            cache_enabled=options.cache_enabled,
        )


class Float16(BFloat16):
    """float16 with a loss scaler (https://arxiv.org/abs/1710.03740).

    Args:
        device: where the model computes.
        options: arguments of `torch.autocast`.
        scaler: arguments of `torch.amp.GradScaler`.
    """

    dtype = torch.float16
    can_skip = True

    def __init__(self, device: torch.device, options: AutocastKwargs, scaler: GradScalerKwargs) -> None:
        super().__init__(device, options)
        self._scaler = Scaler(device.type, **scaler.to_kwargs())
        self._outcomes: dict[int, Skipped] = {}
        self._stepped: set[int] = set()
        self._unscaled: weakref.WeakValueDictionary[int, Optimizer] = weakref.WeakValueDictionary()
        self._has_forgotten = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unscaled": dict(self._unscaled)}  # weak references cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_unscaled": weakref.WeakValueDictionary(state["_unscaled"])}

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """The loss scaler, up to date."""
        self._update()
        return self._scaler

    def _update(self) -> None:
        """Adapt the scale, as late as possible: all optimizers that share a backward pass must see the same one."""
        for optimizer in self._waiting():
            if not _versions(optimizer):
                self.forget(optimizer)
        if self._stepped or (self._has_forgotten and not self._waiting()):
            self._scaler.update()
            self._stepped.clear()
            self._unscaled.clear()
            self._has_forgotten = False

    def _waiting(self) -> list[Optimizer]:
        """Those whose gradients have their true size, and have not been used for a step so far."""
        return [optimizer for key, optimizer in self._unscaled.items() if key not in self._stepped]

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        self._update()
        before = [(optimizer, _versions(optimizer)) for optimizer in self._waiting()]
        try:
            self._scaler.scale(loss).backward(**kwargs)
        finally:
            for optimizer, versions in before:
                if _versions(optimizer) != versions:  # scaled ones were added: the step was given up
                    self.forget(optimizer)

    def attach(self, optimizer: Optimizer) -> None:
        optimizer.register_step_post_hook(self._note_step)

    def _note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The step was made, except that a fused optimizer decides itself, on the device."""
        found = getattr(optimizer, "found_inf", None)
        self._outcomes[id(optimizer)] = False if found is None else found.detach().clone()

    def unscale(self, optimizer: Optimizer) -> None:
        if id(optimizer) not in self._unscaled:
            self._scaler.unscale_(optimizer)
            self._unscaled[id(optimizer)] = optimizer

    def forget(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._unscaled and id(optimizer) not in self._stepped:
            del self._unscaled[id(optimizer)]
            self._has_forgotten |= self._scaler.forget(optimizer)

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> tuple[Any, Skipped]:
        if closure is not None:
            raise StateError(
                "optimizer.step(closure) cannot work with mixed_precision='fp16': a closure computes new gradients "
                "after their scale was checked. Use mixed_precision='bf16' or 'no', or an optimizer without a closure."
            )
        if self._has_forgotten and not _versions(optimizer):
            return None, True  # cleared after it was unscaled: there is nothing to step with
        if id(optimizer) in self._stepped:
            self._update()
        self._outcomes[id(optimizer)] = True  # unless the hook says otherwise
        self._unscaled[id(optimizer)] = optimizer  # also if it is interrupted
        result = self._scaler.step(optimizer)
        self._stepped.add(id(optimizer))
        return result, self._outcomes.pop(id(optimizer))


def _versions(optimizer: Optimizer) -> list[tuple[int, int]]:
    """Which gradients there are, and how often each was written to."""
    grads = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    return [(id(grad), getattr(grad, "_local_tensor", grad)._version) for grad in grads]
