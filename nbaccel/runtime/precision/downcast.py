"""`downcast_bf16`: on a TPU the model itself becomes bfloat16, and what was float64 float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nbaccel.runtime.nested import map_tensors
from nbaccel.runtime.precision.autocast import AutocastForward, BFloat16

SMALLER = {torch.float64: torch.float32, torch.float32: torch.bfloat16}


class Downcast(BFloat16):
    """Weights, gradients and optimizer states in bfloat16: half the memory, and less exact than autocast."""

    def wrap(self, model: nn.Module) -> None:
        if isinstance(model.__dict__.get("forward"), DowncastForward):
            return
        model._apply(_smaller)
        model.forward = DowncastForward(model.forward, self._maker(self._options))


class DowncastForward(AutocastForward):
    """A forward pass whose inputs become smaller, too; takes the place of `model.forward`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*map_tensors(_smaller, args), **map_tensors(_smaller, kwargs))


def _smaller(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(SMALLER[tensor.dtype]) if tensor.dtype in SMALLER else tensor
