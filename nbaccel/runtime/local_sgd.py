"""Local SGD (https://arxiv.org/abs/1805.09767): ranks train on their own, and average their weights now and then."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbaccel.errors import CallError, PlanError

if TYPE_CHECKING:
    from typing_extensions import Self

    from nbaccel.runtime.accelerator import Accelerator


class LocalSGD:
    """A `with` block in which gradients stay on their rank and weights are averaged every few steps, and at its end.

    All weights travel in one message per dtype. Call `step()` after each optimizer step; all ranks must make equally
    many.

    Args:
        accelerator: has prepared the model.
        model: the prepared model.
        local_sgd_steps: optimizer steps between two averages, from 1.
        enabled: False makes the block do nothing, as does one process.

    Raises:
        CallError: `local_sgd_steps` is below 1.
        PlanError: the model's weights are shared out among the ranks (FSDP, tensor parallelism), so that there is
            nothing to average.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, local_sgd_steps: int, enabled: bool = True) -> None:
        if local_sgd_steps < 1:
            raise CallError(f"LocalSGD(local_sgd_steps={local_sgd_steps}): possible is a whole number from 1.")
        self.accelerator, self.model, self.local_sgd_steps = accelerator, model, local_sgd_steps
        self.enabled = enabled and accelerator.use_distributed
        self.num_steps = 0
        if self.enabled and any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
            raise PlanError(
                "LocalSGD", "this model's weights are shared out among the ranks.", "Use plain data parallel training."
            )
        self._block: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> Self:
        self.num_steps = 0
        if self.enabled:
            self._block = self.accelerator.no_sync(self.model)
            self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self._block.__exit__(kind, error, trace)
            if kind is None:  # else the other ranks may never come
                self._average()

    def step(self) -> None:
        """Note an optimizer step; every `local_sgd_steps` of them average the weights."""
        self.num_steps += 1
        if self.enabled and self.num_steps % self.local_sgd_steps == 0:
            self._average()

    def _average(self) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        averaged = self.accelerator.reduce([parameter.detach() for parameter in parameters], "mean")
        with torch.no_grad():
            for parameter, value in zip(parameters, averaged, strict=True):
                parameter.copy_(value)
