"""The loss scaler of fp16, for steps that are given up, and for gradients of which some are spread over ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.optim import Optimizer

Found = dict[torch.device, torch.Tensor]


class Scaler(torch.amp.GradScaler):
    """As torch's."""

    def forget(self, optimizer: Optimizer) -> bool:
        """No step is going to be made with the gradients that were unscaled last.

        Returns:
            Whether the next `update` has something to learn from them, as from others.
        """
        state = self._per_optimizer_states.pop(id(optimizer), None) if self.is_enabled() else None
        if not state or not state["found_inf_per_device"]:
            return False
        self._per_optimizer_states[-id(optimizer)] = state  # a key that no optimizer has
        return True

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: torch.Tensor, found_inf: torch.Tensor, allow_fp16: bool
    ) -> Found:
        """One kind of gradients after the other: torch cannot take plain ones and DTensors together."""
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        found: Found = {}
        for kind in dict.fromkeys(type(one.grad) for one in parameters):
            alike = [one for one in parameters if type(one.grad) is kind]
            part: Any = SimpleNamespace(param_groups=[{"params": alike}])
            for device, value in super()._unscale_grads_(part, inv_scale, found_inf, allow_fp16).items():
                found[device] = torch.maximum(found[device], value) if device in found else value
        return found
