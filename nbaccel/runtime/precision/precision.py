"""Number formats of forward and backward pass. The base class is float32, or whatever the model has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbaccel.runtime.handlers import AutocastKwargs

Skipped = bool | torch.Tensor
"""Whether an optimizer step was left out; a tensor, if only the device knows yet."""


class Precision:
    """Computes in the model's own number format."""

    can_skip = False
    """Whether `step` may leave a step out."""

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler, where there is one."""
        return None

    def wrap(self, model: nn.Module) -> None:
        """Make the model's forward pass use this precision."""

    def autocast(self, options: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """A `with` block that computes in this precision."""
        return nullcontext()

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """The backward pass."""
        loss.backward(**kwargs)

    def attach(self, optimizer: Optimizer) -> None:
        """An optimizer is going to step in this precision."""

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring the gradients to their true size, once per step."""

    def forget(self, optimizer: Optimizer) -> None:
        """Its gradients were cleared, whether a step was made with them or not."""

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> tuple[Any, Skipped]:
        """One optimizer step. Returns what the optimizer returns, and whether the step was left out."""
        return (optimizer.step() if closure is None else optimizer.step(closure)), False
