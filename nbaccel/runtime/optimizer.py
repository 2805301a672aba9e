"""The prepared optimizer: steps only where a window of gradients is complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from nbaccel.errors import CallError
from nbaccel.runtime.precision.precision import Precision, Skipped
from nbaccel.runtime.state import GradientState


class AcceleratedOptimizer(Optimizer):
    """A torch optimizer inside training with accumulation and mixed precision.

    Args:
        optimizer: the optimizer that does the work.
        gradients: says whether gradients are complete.
        precision: knows about loss scaling.
        device: where the optimizer's state belongs; None leaves it where it is.
    """

    def __init__(  # composition: the base class must not make parameter groups of its own
        self,
        optimizer: Optimizer,
        gradients: GradientState | None = None,
        precision: Precision | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.optimizer = optimizer
        self._gradients = gradients or GradientState()
        self.precision = precision or Precision()
        self._skipped: Skipped = False
        self._takes_set_to_none = "set_to_none" in inspect.signature(optimizer.zero_grad).parameters
        self.precision.attach(optimizer)
        self._device = device
        self.place_state()

    def place_state(self) -> None:
        """Bring the state to where its parameters are, unless it is to stay where it is."""
        optimizer = self.optimizer
        if self._device is not None and any(_elsewhere(*held) for held in optimizer.state.items()):
            optimizer.load_state_dict(optimizer.state_dict())  # torch then moves each tensor to its parameter

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step if gradients are complete, else do nothing."""
        if self._gradients.sync_gradients:
            result, self._skipped = self.precision.step(self.optimizer, closure)
            return result
        return None

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Clear gradients if they were complete, else do nothing.

        Args:
            set_to_none: drop the gradients rather than fill them with zeros; left out: as the optimizer does.

        Raises:
            CallError: the optimizer does not know `set_to_none`.
        """
        if not self._gradients.sync_gradients:
            return
        if set_to_none is None:
            self.optimizer.zero_grad()
        elif self._takes_set_to_none:
            self.optimizer.zero_grad(set_to_none=set_to_none)
        else:
            raise CallError(
                f"zero_grad(set_to_none={set_to_none}): {type(self.optimizer).__name__} does not take it. Leave it out."
            )
        self.precision.forget(self.optimizer)

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step was left out because of infinite gradients (fp16)."""
        return bool(self._skipped)

    @property
    def state(self) -> Any:
        return self.optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.optimizer.state = value

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: Any) -> None:
        self.optimizer.param_groups = value

    @property
    def defaults(self) -> Any:
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, value: Any) -> None:
        self.optimizer.defaults = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def train(self) -> None:
        """Training mode, for optimizers that have one (schedule-free)."""
        _call_if_there(self.optimizer, "train")

    def eval(self) -> None:
        """Evaluation mode, for optimizers that have one (schedule-free)."""
        _call_if_there(self.optimizer, "eval")

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _elsewhere(parameter: Any, state: Any) -> bool:
    values = state.values() if isinstance(parameter, torch.Tensor) and isinstance(state, dict) else ()
    return any(_is_array(value) and value.device != parameter.device for value in values)


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _call_if_there(owner: object, name: str) -> None:
    method = getattr(owner, name, None)
    if callable(method):
        method()
