"""Training on TPU chips by torch_xla: a process per chip, or one process for all of them (SPMD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbaccel.runtime.collectives import broadcast, reduce
from nbaccel.runtime.parallel.registry import refuse_sharded
from nbaccel.runtime.parallel.replacing import Replaced, named_parameters
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.world import World
from nbaccel.runtime.xla.cutting import cut_parameters, device_count

_HOOKS = "_nbaccel_xla_hooks"


class OnXla(Strategy):
    """What one chip needs: parameters get new objects when a module moves there, and each step must be ended.

    Args:
        world: who trains together.
    """

    distributed_type = "XLA"

    def __init__(self, world: World) -> None:
        self._world = world
        self._replaced = Replaced(None)

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        before = named_parameters(model)
        moved = model.to(device)
        _tie_again(moved, before)
        self._replaced.note(before, named_parameters(moved))
        return moved

    def adopt(self, optimizer: Optimizer) -> None:
        self._replaced.put_into(optimizer)
        for hook in optimizer.__dict__.pop(_HOOKS, ()):  # of an `Accelerator` that had it before
            hook.remove()
        hooks = (
            optimizer.register_step_pre_hook(lambda one, args, kwargs: self.average(_parameters_of(one))),
            optimizer.register_step_post_hook(lambda one, args, kwargs: self.end_step(one)),
        )
        optimizer.__dict__[_HOOKS] = hooks

    def average(self, parameters: Iterable[torch.Tensor]) -> None:
        """Make the gradients of these parameters those of all processes; once per window."""

    def end_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped: let XLA run what was noted; not every loop has a prepared loader."""
        import torch_xla

        torch_xla.sync()

    def model_state(self, model: nn.Module, full: bool = True) -> dict[str, Any]:
        return _on_cpu(model.state_dict(keep_vars=True))

    def optimizer_state(self, model: nn.Module, optimizer: Optimizer, full: bool = True) -> dict[str, Any]:
        return _on_cpu(optimizer.state_dict())


class ProcessPerChip(OnXla):
    """Every process has the whole model on a chip of its own, and gradients are averaged before the optimizer steps."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._averaged: set[int] = set()

    def wrap(self, model: nn.Module) -> nn.Module:
        refuse_sharded(model)
        if self._world.size > 1:
            broadcast([*model.parameters(), *model.buffers()], world=self._world)
        return model

    def average(self, parameters: Iterable[torch.Tensor]) -> None:
        if self._world.size == 1 or not GradientState().sync_gradients:
            return
        waiting = [one for one in parameters if one.grad is not None and id(one) not in self._averaged]
        _average([one.grad for one in waiting if one.grad is not None], self._world)
        self._averaged.update(map(id, waiting))

    def end_step(self, optimizer: Optimizer) -> None:
        self._averaged.difference_update(map(id, _parameters_of(optimizer)))
        super().end_step(optimizer)

    def clip_grad_norm(self, parameters: Sequence[torch.Tensor], max_norm: float, norm_type: float) -> torch.Tensor:
        self.average(parameters)
        return super().clip_grad_norm(parameters, max_norm, norm_type)

    def clip_grad_value(self, parameters: Sequence[torch.Tensor], value: float) -> None:
        self.average(parameters)
        super().clip_grad_value(parameters, value)


class AllChips(OnXla):
    """One process sees one large device; batches are cut among its chips, with FSDP parameters, too.

    Xu et al., GSPMD: General and Scalable Parallelization for ML Computation Graphs (https://arxiv.org/abs/2105.04663).

    Args:
        world: this process alone.
        shards: whether parameters are cut.
    """

    def __init__(self, world: World, shards: bool = False) -> None:
        super().__init__(world)
        self._shards = shards

    def wrap(self, model: nn.Module) -> nn.Module:
        refuse_sharded(model)
        if self._shards and device_count() > 1:
            cut_parameters(model)
        return model


def _average(gradients: list[torch.Tensor], world: World) -> None:
    """In place: over the chips' own wires; where processes compute on the CPU, which has none, by the process group."""
    from torch_xla import runtime
    from torch_xla.core import xla_model

    if runtime.world_size() == world.size:
        xla_model.all_reduce(xla_model.REDUCE_SUM, gradients, scale=1.0 / world.size)
        return
    for gradient, mean in zip(gradients, reduce(gradients, "mean", world=world), strict=True):
        gradient.copy_(mean)


def _parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _tie_again(model: nn.Module, before: Mapping[str, nn.Parameter]) -> None:
    """A parameter with several names was moved once for each of them: let them share one again."""
    first: dict[int, nn.Parameter] = {}
    for name, parameter in named_parameters(model).items():
        kept = first.setdefault(id(before[name]), parameter)
        if kept is not parameter:
            owner, _, own_name = name.rpartition(".")
            model.get_submodule(owner)._parameters[own_name] = kept


def _on_cpu(state: Any) -> Any:
    """A state in the CPU's memory; tensors that are one stay one."""
    known: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in known:
                known[id(value)] = value.detach().cpu()
            return known[id(value)]
        if isinstance(value, Mapping):
            return {name: copied(part) for name, part in value.items()}
        return type(value)(map(copied, value)) if isinstance(value, (list, tuple)) else value

    return copied(state)
