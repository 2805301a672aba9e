"""State dicts of sharded models and optimizers, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nbaccel.errors import CallError
from nbaccel.runtime.parallel.replacing import spread_state
from nbaccel.runtime.parallel.spread import fill, whole
from nbaccel.runtime.world import World


def reshard(model: nn.Module) -> None:
    """Show each module's own part again, where the last forward pass has left the full parameters in place."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def full_model_state(model: nn.Module, world: World) -> dict[str, Any]:
    """All weights on the CPU, for rank 0; empty for the others."""
    return _for_rank_0(model.state_dict(), world)


def _for_rank_0(state: Mapping[str, Any], world: World) -> dict[str, Any]:
    """All ranks gather each tensor; only rank 0 keeps it."""
    is_first = world.rank == 0
    joined = _mapped(state, lambda tensor: _at_first(tensor, is_first))
    return cast(dict[str, Any], joined) if is_first else {}


def _at_first(tensor: torch.Tensor, is_first: bool) -> torch.Tensor | None:
    full = whole(tensor) if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if is_first else None


def _mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same nested mappings and lists with each tensor changed; one that is there twice (tied) only once."""
    done: dict[int, Any] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in done:
                done[id(value)] = change(value), value
            return done[id(value)][0]
        if isinstance(value, Mapping):
            return {name: walk(part) for name, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list) else value

    return walk(value)


def load_full_model_state(model: nn.Module, state: Mapping[str, Any], world: World, strict: bool = True) -> None:
    """Take over rank 0's whole weights.

    Args:
        model: a sharded one.
        state: counts on rank 0 alone.
        world: who trains together.
        strict: names must agree; otherwise what is not in the state stays.

    Raises:
        CallError: on all ranks, if names or shapes differ.
    """
    reshard(model)
    own = model.state_dict()
    found = {name: value for name, value in state.items() if strict or name in own}
    held: list[Any] = [[name for name in own if strict or name in found]]
    dist.broadcast_object_list(held, src=0, group=world.group, device=world.device)
    _agree(_misfit({name: own[name] for name in held[0]}, found) if world.rank == 0 else "", world)
    done: set[int] = set()
    with torch.no_grad():
        for name in held[0]:
            tensor = own[name]
            if isinstance(tensor, torch.Tensor) and id(tensor) not in done:
                done.add(id(tensor))
                _take(tensor, state[name] if world.rank == 0 else None, world)


def _take(tensor: torch.Tensor, full: torch.Tensor | None, world: World) -> None:
    if isinstance(tensor, DTensor):
        fill(tensor, full)
        return
    if full is not None:
        tensor.copy_(full)
    shared = tensor.to(world.device)
    dist.broadcast(shared, src=0, group=world.group)
    tensor.copy_(shared)


def _misfit(own: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        name
        for name in own.keys() & state.keys()
        if isinstance(own[name], torch.Tensor) and own[name].shape != state[name].shape
    ]
    found = {"missing": missing, "not of this model": unknown, "of another shape": sorted(shapes)}
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in found.items() if names)


def _agree(problem: str, world: World) -> None:
    """Raises CallError on all ranks if rank 0 has a problem."""
    held: list[Any] = [problem]
    dist.broadcast_object_list(held, src=0, group=world.group, device=world.device)
    if held[0]:
        raise CallError(f"this state does not fit: {held[0]}. Load it into the model or optimizer that it came from.")


def full_optimizer_state(optimizer: Optimizer, world: World) -> dict[str, Any]:
    """The whole state on the CPU, in the form that an optimizer of one process has, for rank 0; empty for others."""
    return _for_rank_0(optimizer.state_dict(), world)


def load_full_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any], world: World) -> None:
    """Take over rank 0's whole state.

    Raises:
        CallError: on all ranks, if it belongs to other parameters.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    _agree(_other_groups(optimizer, state) if world.rank == 0 else "", world)
    held: list[Any] = [_outline(state, parameters) if world.rank == 0 else None]
    dist.broadcast_object_list(held, src=0, group=world.group, device=world.device)
    outline = held[0]
    for number, values in outline["state"].items():
        for name, value in values.items():
            if isinstance(value, _Large):
                full = state["state"][number][name] if world.rank == 0 else torch.empty(value.shape, dtype=value.dtype)
                values[name] = spread_state(full, parameters[number], source=0)
    optimizer.load_state_dict(outline)


class _Large:
    """Stands for a tensor that has its parameter's shape and is spread as that is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype


def _outline(state: Mapping[str, Any], parameters: list[Any]) -> dict[str, Any]:
    outlined = {
        number: {name: _outlined(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {"state": outlined, "param_groups": state["param_groups"]}


def _outlined(value: Any, parameter: torch.Tensor) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim and value.shape == parameter.shape:
        return _Large(value) if isinstance(parameter, DTensor) else value
    return value


def _other_groups(optimizer: Optimizer, state: Mapping[str, Any]) -> str:
    own = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [len(group["params"]) for group in state["param_groups"]]
    return "" if own == theirs else f"parameter groups of {theirs} parameters, not {own}"
