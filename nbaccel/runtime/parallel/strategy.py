"""How processes train one model together. The base class is one process alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.parallel.registry import refuse_sharded

State = Mapping[str, Any]


class Strategy:
    """One process: the model is as it is, and there is nobody to talk to.

    Attributes:
        distributed_type: Accelerate's word for it, empty where the device's kind says it.
        mesh: the device mesh, None where the processes form none.
        spreads: whether a rank has only a part of weights and optimizer states.
        plugin: what FSDP was configured by, completed; None for others.
    """

    distributed_type = ""
    mesh: Any = None
    spreads = False
    plugin: Any = None

    @property
    def saves_shards(self) -> bool:
        """Whether each rank saves its own part of weights and optimizer states."""
        return False

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Move the model to where it trains."""
        return model.to(device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Make the model train together with the other processes.

        Raises:
            StateError: its parameters are spread over ranks by FSDP.
        """
        refuse_sharded(model)
        return model

    def joins(self, model: nn.Module) -> bool:
        """Whether a prepared model depends on the process group."""
        return False

    def adopt(self, optimizer: Optimizer) -> None:
        """Let an optimizer work on the parameters that `wrap` has put in place of its own."""

    def window(self, accumulation: Accumulation, models: Sequence[Any]) -> AbstractContextManager[None]:
        """A `with` block around one micro-batch."""
        return accumulation

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        """A `with` block in which gradients stay on their process."""
        return nullcontext()

    def join(self, joinables: Sequence[Any]) -> AbstractContextManager[None] | None:
        """A `with` block in which the processes may run out of batches at different times; None if they cannot."""
        return None if self.distributed_type else nullcontext()

    def clip_grad_norm(self, parameters: Sequence[torch.Tensor], max_norm: float, norm_type: float) -> torch.Tensor:
        """Scale gradients down to a total norm. Returns the norm before, a plain tensor, equal on all ranks."""
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)

    def clip_grad_value(self, parameters: Sequence[torch.Tensor], value: float) -> None:
        """Limit each gradient's value."""
        nn.utils.clip_grad_value_(parameters, value)

    def model_state(self, model: nn.Module, full: bool = True) -> dict[str, Any]:
        """The weights by the names of the user's own module. All ranks must ask together.

        Args:
            model: the user's own module.
            full: whole tensors, which a sharding strategy gives on the CPU and to rank 0 alone (the others get an
                empty mapping); otherwise what `torch.distributed.checkpoint` takes.
        """
        return model.state_dict()

    def load_model_state(self, model: nn.Module, state: State, full: bool = True, strict: bool = True) -> None:
        """Take over what `model_state` gave; with `full`, only rank 0's counts where weights are sharded.

        Args:
            model: the user's own module.
            state: names and tensors.
            full: whether they are whole.
            strict: names must agree; otherwise weights that are not in the state stay.
        """
        model.load_state_dict(state, strict=strict)

    def optimizer_state(self, model: nn.Module, optimizer: Optimizer, full: bool = True) -> dict[str, Any]:
        """The optimizer's state, whole or not as `model_state` gives weights, in the form of one process's."""
        return optimizer.state_dict()

    def load_optimizer_state(self, model: nn.Module, optimizer: Optimizer, state: State, full: bool = True) -> None:
        """Take over what `optimizer_state` gave."""
        optimizer.load_state_dict(dict(state))
