"""Fully sharded data parallel: every rank has a part of each parameter, and gathers a unit of the model when needed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.fsdp_plugin import FullyShardedDataParallelPlugin
from nbaccel.runtime.parallel import states
from nbaccel.runtime.parallel.mesh import Axes, mesh_of
from nbaccel.runtime.parallel.recompute import recompute_units
from nbaccel.runtime.parallel.registry import entry_of, hold_group, note, refuse_lost, refuse_sharded
from nbaccel.runtime.parallel.replacing import Replaced, named_parameters
from nbaccel.runtime.parallel.sharding import Sharding
from nbaccel.runtime.parallel.spread import fill, local_of, total_norm
from nbaccel.runtime.parallel.strategy import State, Strategy
from nbaccel.runtime.parallel.units import find_units, ignored_parameters
from nbaccel.runtime.versions import is_torch_version
from nbaccel.runtime.world import World


class FullySharded(Strategy):
    """torch's `fully_shard` (https://arxiv.org/abs/2304.11277, in its second form, with DTensors).

    The model is changed in place: it stays the user's own module, with DTensors for parameters.

    Args:
        world: who trains together.
        axes: the mesh; parameters are sharded over its last axis and replicated over the one before.
        sharding: how to shard.
        plugin: asked at each checkpoint for the form of states, where it says one.
    """

    distributed_type = "FSDP"
    spreads = True

    def __init__(
        self, world: World, axes: Axes, sharding: Sharding, plugin: FullyShardedDataParallelPlugin | None = None
    ) -> None:
        self._world, self._sharding = world, sharding
        self.mesh = mesh_of(axes, world)
        self.plugin = plugin
        self._replaced = Replaced(source=0 if sharding.from_rank_0 else None)

    @property
    def saves_shards(self) -> bool:
        said = None if self.plugin is None else self.plugin.state_dict_word
        return self._sharding.saves_shards if said is None else said == "SHARDED_STATE_DICT"

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Leaves it where it is: `wrap` moves one unit after the other, and only this rank's part of it stays."""
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Shard a model in place.

        Raises:
            StateError: it was sharded before, over a group that has ended or in another way.
            CallError: the units or ignored modules cannot be found, or a rank has no weights.
        """
        refuse_lost(model)
        known = entry_of(model)
        if known is not None and known.settings == self._sharding:
            return model
        if known is not None:
            raise StateError(
                "this model is sharded already, with other settings (precision, units, offloading). Build it again, "
                "or keep the settings of the Accelerator that has prepared it first."
            )
        refuse_sharded(model)
        if any(True for _ in model.parameters()):
            self._shard(model)
            note(model, "modules", self._sharding)
            hold_group()
        return model

    def _shard(self, model: nn.Module) -> None:
        how = self._sharding
        ignored = ignored_parameters(model, how.ignored)
        units = find_units(model, how.units, ignored)
        before = named_parameters(model)
        if how.upcasts:
            _upcast(model)
        start = _Start(model, how, self._world)
        recompute_units(model, units, how, self._world)
        _move(ignored, self._world.device)
        for part in (*units, model):
            fully_shard(part, mesh=self.mesh, ignored_params=set(ignored), **self._options())
        start.fill(model)
        for parameter in ignored_parameters(model, how.ignored):  # those on the meta device have new ones
            _average(parameter, model, self._world)
        if how.prefetch:
            _prefetch_forward(model)
        self._replaced.note(before, named_parameters(model))

    def _options(self) -> dict[str, Any]:
        how = self._sharding
        offloads = how.offload and self._world.device.type != "cpu"  # there they are by themselves
        return {
            "reshard_after_forward": how.reshard_after_forward,
            "mp_policy": MixedPrecisionPolicy(how.dtype, how.reduce_dtype, how.output_dtype, how.cast_inputs),
            "offload_policy": CPUOffloadPolicy(pin_memory=how.pin) if offloads else OffloadPolicy(),
        }

    def joins(self, model: nn.Module) -> bool:
        return isinstance(model, FSDPModule)

    def adopt(self, optimizer: Optimizer) -> None:
        self._replaced.put_into(optimizer)
        _step_kinds_apart(optimizer)
        is_new = entry_of(optimizer) is None
        if is_new and any(isinstance(one, DTensor) for group in optimizer.param_groups for one in group["params"]):
            note(optimizer, "optimizers")

    def window(self, accumulation: Accumulation, models: Sequence[Any]) -> AbstractContextManager[None]:
        return _Window(accumulation, [model for model in models if isinstance(model, FSDPModule)])

    @contextmanager
    def no_sync(self, model: Any) -> Iterator[None]:
        if not isinstance(model, FSDPModule):
            yield
            return
        _set_sync(model, False)
        try:
            yield
        finally:
            _set_sync(model, True)

    def clip_grad_norm(self, parameters: Sequence[torch.Tensor], max_norm: float, norm_type: float) -> torch.Tensor:
        """As the base class.

        Raises:
            CallError: a norm that parts cannot be put together to.
        """
        if norm_type <= 0:
            raise CallError(
                f"clip_grad_norm_(norm_type={norm_type}): with FSDP possible is a number above 0, or inf, as each "
                "rank knows a part of the gradients."
            )
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(grads, float(norm_type))
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for grad in map(local_of, grads):
            grad.mul_(factor.to(grad.device))
        return norm

    def clip_grad_value(self, parameters: Sequence[torch.Tensor], value: float) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                local_of(parameter.grad).clamp_(-value, value)

    def model_state(self, model: nn.Module, full: bool = True) -> dict[str, Any]:
        refuse_lost(model)
        states.reshard(model)
        return states.full_model_state(model, self._world) if full else model.state_dict()

    def load_model_state(self, model: nn.Module, state: State, full: bool = True, strict: bool = True) -> None:
        """As the base class. Raises CallError on all ranks if names or shapes differ."""
        refuse_lost(model)
        if full:
            states.load_full_model_state(model, state, self._world, strict)
        else:
            states.reshard(model)
            model.load_state_dict(state, strict=strict)

    def optimizer_state(self, model: nn.Module, optimizer: Optimizer, full: bool = True) -> dict[str, Any]:
        return states.full_optimizer_state(optimizer, self._world) if full else optimizer.state_dict()

    def load_optimizer_state(self, model: nn.Module, optimizer: Optimizer, state: State, full: bool = True) -> None:
        """As the base class. Raises CallError on all ranks if the parameters differ."""
        if full:
            states.load_full_optimizer_state(optimizer, state, self._world)
        else:
            optimizer.load_state_dict(dict(state))
        _step_kinds_apart(optimizer)


class _Start:
    """The weights that training starts from: rank 0's, each rank's own, or invented ones.

    Args:
        model: not sharded yet.
        how: says which.
        world: who trains together.

    Raises:
        CallError: this rank has no weights and gets none.
    """

    def __init__(self, model: nn.Module, how: Sharding, world: World) -> None:
        self._world, self._how = world, how
        empty = [name for name, tensor in _tensors(model) if tensor.is_meta]
        self._invents = how.fill is not None and _at_rank_0(bool(empty), world)
        if empty and not self._invents:
            _check_meta(empty[0], how, world)
        self._own: Mapping[str, torch.Tensor] = {}
        self._is_taken_over = how.from_rank_0 and not self._invents
        if self._is_taken_over and world.rank == 0:
            self._own = {name: tensor.detach() for name, tensor in _tensors(model)}

    def fill(self, model: nn.Module) -> None:
        """Give the sharded model its weights."""
        if any(tensor.is_meta for _, tensor in _tensors(model)):
            device = torch.device("cpu") if self._how.offload else self._world.device
            model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
        if self._invents and self._how.fill is not None:
            for part in model.modules():
                self._how.fill(part)
        for _, buffer in model.named_buffers():
            buffer.data = buffer.data.to(self._world.device)
        if self._is_taken_over:
            for name, tensor in _tensors(model):
                self._from_rank_0(tensor, self._own.get(name))

    def _from_rank_0(self, tensor: torch.Tensor, full: torch.Tensor | None) -> None:
        if isinstance(tensor, DTensor):
            fill(tensor, full)
        else:
            dist.broadcast(tensor.data, src=0, group=self._world.group)


def _at_rank_0(value: bool, world: World) -> bool:
    held = [value]
    dist.broadcast_object_list(held, src=0, group=world.group, device=world.device)
    return held[0]


def _check_meta(name: str, how: Sharding, world: World) -> None:
    if world.rank == 0:
        raise CallError(
            f"the model has no weights on rank 0 ({name} is on the meta device). Load them there before prepare(), "
            "or give FullyShardedDataParallelPlugin(param_init_fn=...)."
        )
    if not (how.from_rank_0 and how.only_rank_0_reads):
        raise CallError(
            f"the model has no weights on rank {world.rank} ({name} is on the meta device), and is not to get rank "
            "0's. Set fsdp_sync_module_states and fsdp_cpu_ram_efficient_loading to true, or load it on all ranks."
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _move(parameters: frozenset[nn.Parameter], device: torch.device) -> None:
    for parameter in parameters:
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device)


def _upcast(model: nn.Module) -> None:
    """Small steps of 16-bit weights would round away, and torch shards only weights of one number format together."""
    parameters = list(model.parameters())
    if any(type(parameter).__name__ == "Params4bit" for parameter in parameters):
        return  # bitsandbytes has packed the weights, and given all of them one format
    also_frozen = not is_torch_version(">=", "2.8")
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16) and (parameter.requires_grad or also_frozen):
            parameter.data = parameter.data.float()


def _average(parameter: nn.Parameter, model: nn.Module, world: World) -> None:
    """Average the gradient of a parameter that is whole on each rank, where the model's other gradients are."""
    if not parameter.requires_grad:
        return
    owner = weakref.ref(model)

    def average(own: torch.Tensor) -> None:
        model = owner()
        if own.grad is not None and model is not None and model not in _local_models:
            own.grad /= world.size
            dist.all_reduce(own.grad, group=world.group)

    parameter.register_post_accumulate_grad_hook(average)


def _step_kinds_apart(optimizer: Optimizer) -> None:
    """A group that has DTensors and plain parameters is stepped one by one: torch cannot take both together."""
    for group in optimizer.param_groups:
        if len({isinstance(one, DTensor) for one in group["params"]}) > 1:
            if group.get("fused"):
                optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
            group |= {way: False for way in ("foreach", "fused") if way in group}


_local_models: weakref.WeakSet[Any] = weakref.WeakSet()
"""Models whose gradients stay on their process just now."""


def _set_sync(model: Any, is_on: bool) -> None:
    model.set_requires_gradient_sync(is_on)
    if is_on:
        _local_models.discard(model)
    else:
        _local_models.add(model)


def _prefetch_forward(model: nn.Module) -> None:
    units = [part for part in model.modules() if isinstance(part, FSDPModule) and part is not model]
    for unit, following in pairwise(units):
        unit.set_modules_to_forward_prefetch([following])


class _Window:
    """One micro-batch; gradients are reduced only if it completes a window."""

    __slots__ = ("_accumulation", "_is_local", "_models")

    def __init__(self, accumulation: Accumulation, models: Sequence[FSDPModule]) -> None:
        self._accumulation, self._models = accumulation, models
        self._is_local = False

    def __enter__(self) -> None:
        self._is_local = not (self._accumulation.advance() or self._accumulation.sync_each_batch)
        if self._is_local:
            for model in self._models:
                _set_sync(model, False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_local:
            for model in self._models:
                _set_sync(model, True)
        if kind is not None:
            for model in self._models:
                _forget_half_a_pass(model)


def _forget_half_a_pass(model: FSDPModule) -> None:
    """After an error in the middle of a pass, newer versions of torch can begin the next one cleanly."""
    reset = getattr(model, "reset_iter_state", None)
    if reset is not None:
        reset()
