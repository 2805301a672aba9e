"""Models and optimizers of which each rank has a part: written whole by the main process, or each part by its rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from nbaccel.errors import CallError, PlanError, StateError
from nbaccel.runtime.checkpoint.agreement import each_alone
from nbaccel.runtime.checkpoint.files import Record
from nbaccel.runtime.checkpoint.formats import (
    MODEL_KEY,
    OPTIMIZER_KEY,
    fsdp_file,
    has_shards,
    model_folder,
    optimizer_file,
    optimizer_folder,
    read_optimizer,
    read_weights,
)
from nbaccel.runtime.checkpoint.shard_reading import ShardFolder, nested
from nbaccel.runtime.checkpoint.shards import IndexPart, Planned, ShardRecord
from nbaccel.runtime.checkpoint.store import Part, Store
from nbaccel.runtime.checkpoint.weights import fitted, refuse_others
from nbaccel.runtime.parallel.named import Names, by_name, by_number, names_of
from nbaccel.runtime.parallel.spread import empty_like
from nbaccel.runtime.parallel.strategy import Strategy
from nbaccel.runtime.unwrap import extract_model_from_parallel
from nbaccel.runtime.world import World

Result = TypeVar("Result")
Make = Callable[[], Iterable[Part]]
_SAVING, _LOADING = "saving the state", "loading the state"


class SpreadStore(Store):
    """The layout of Accelerate's FSDP: `pytorch_model_fsdp.bin` and `optimizer.bin`, or folders of each rank's parts.

    Args:
        keeps: whether this is the process that writes what all have.
        strategy: spreads models and optimizers; says which of the two forms is written.
        world: who trains together.
        on_each_node: each machine is to have a folder of its own.
    """

    def __init__(self, keeps: bool, strategy: Strategy, world: World, on_each_node: bool = False) -> None:
        super().__init__(keeps)
        self._strategy, self._world, self._on_each_node = strategy, world, on_each_node
        self._saved: list[Any] = []

    def weights(self, models: Sequence[nn.Module]) -> list[Any]:
        self.check_nodes()
        full = not self._strategy.saves_shards
        self._saved = [self._strategy.model_state(model, full) for model in models]
        return list(self._saved)

    def collect(self, weights: Sequence[Any], models: Sequence[nn.Module], optimizers: Sequence[Any], safe: bool) -> (
        list[Part]
    ):  # fmt: skip
        """As the base class; `safe` changes nothing, as in Accelerate: whole weights are written in torch's format."""
        kept = each_alone(lambda: self._kept(weights), self._world, _SAVING)
        self._saved = []
        own, shards = _own(models), self._strategy.saves_shards
        made = [self.of_model(n, state, shards) for n, state in enumerate(kept)]
        made += [self.of_optimizer(n, own, one, shards) for n, one in enumerate(optimizers)]
        return [part for make in made for part in make()]

    def of_model(self, number: int, state: Mapping[str, Any], shards: bool) -> Make:
        """Settle, with all ranks together, who writes what of a model's weights.

        Args:
            number: the model's.
            state: its weights; whole ones, on rank 0 alone, unless `shards`.
            shards: in which of the two forms they are.

        Returns:
            What gives the files that this rank has to write, and talks to nobody.
        """
        if shards:
            return Planned(model_folder(number), {MODEL_KEY: dict(state)}, self._world, _SAVING).parts
        return lambda: [Part(fsdp_file(number), state)] if self._keeps else []

    def of_optimizer(self, number: int, models: Sequence[nn.Module], optimizer: Any, shards: bool) -> Make:
        """The same for an optimizer of parameters of these models."""
        names = names_of(models, optimizer, number)
        state = self._strategy.optimizer_state(_first(models), _inner(optimizer), full=not shards)
        if shards:
            whole = {OPTIMIZER_KEY: by_name(state, names)}
            return Planned(optimizer_folder(number), whole, self._world, _SAVING).parts
        return lambda: [Part(optimizer_file(number), by_name(state, names))] if self._keeps else []

    def _kept(self, weights: Sequence[Any]) -> list[Any]:
        """What is left of all weights after rank 0's hooks, for many hooks take theirs out of the list there alone."""
        places = {id(state): place for place, state in enumerate(self._saved)}
        held: list[Any] = [[places.get(id(state)) for state in weights]]
        dist.broadcast_object_list(held, src=0, group=self._world.group, device=self._world.device)
        if len(weights) < len(held[0]) and None in held[0]:
            raise StateError(
                "a hook of register_save_state_pre_hook has put other weights in their place on rank 0, and not on "
                f"rank {self._world.rank}. Let it do so on all ranks."
            )
        return [weights[n] if place is None else self._saved[place] for n, place in enumerate(held[0])]

    def write(self, folder: Path, parts: Iterable[Part]) -> dict[str, Record]:
        return super().write(folder, [part for part in parts if not isinstance(part, IndexPart)])

    def finish(self, folder: Path, parts: Iterable[Part], records: Mapping[str, Record]) -> dict[str, Record]:
        written = {name: one.plain if isinstance(one, ShardRecord) else one for name, one in records.items()}
        for part in parts:
            if isinstance(part, IndexPart):
                written[part.name] = part.write_index(folder, records)
        return written

    def load_models(self, folder: Path, models: Sequence[nn.Module], load: Mapping[str, Any], **options: Any) -> None:
        """As the base class. Raises CallError for `assign`, which would put whole weights in the place of parts."""
        self.check_nodes()
        if options.pop("assign", False):
            raise CallError("load_state(assign=True) with FSDP: weights are spread over the ranks. Leave it out.")
        strict = bool(options.pop("strict", True))
        for n, model in enumerate(models):
            self.load_model(folder, n, model, load, strict)

    def load_model(self, folder: Path, number: int, model: nn.Module, load: Mapping[str, Any], strict: bool) -> None:
        """Fill one model, the user's own module; arguments as of `load_models`."""
        home = folder / model_folder(number)
        if has_shards(home):
            self._each(self._fill, model, home, load, strict)
        else:
            whole = self._each(self._whole_weights, folder, number, model, load, strict)
            self._strategy.load_model_state(model, whole, strict=False)

    def _whole_weights(
        self, folder: Path, number: int, model: nn.Module, load: Mapping[str, Any], strict: bool
    ) -> dict[str, Any]:
        if self._world.rank:
            return {}
        state = fitted(model, read_weights(folder, number, load))
        if strict:
            refuse_others(model, state)
        wanted = model.state_dict()
        for name, value in state.items():
            if name in wanted and isinstance(value, torch.Tensor):
                _check_shape(name, folder, value.shape, wanted[name])
        return state

    def _fill(self, model: nn.Module, home: Path, load: Mapping[str, Any], strict: bool) -> None:
        """Read this rank's part, into the model's own memory."""
        shards = ShardFolder(home, load)
        own = self._strategy.model_state(model, full=False)
        keys = {".".join(map(str, path[1:])): key for key in shards.keys if (path := shards.path(key))[0] == MODEL_KEY}
        if strict:
            refuse_others(model, keys)
        values = {keys[name]: value for name, value in own.items() if name in keys}
        for key, value in values.items():
            _check_shape(key, home, shards.shape(key), value)
        shards.fill(values)
        state = {name: values[key] for name, key in keys.items() if name in own}
        self._strategy.load_model_state(model, state, full=False, strict=False)

    def load_optimizers(self, folder: Path, models: Sequence[nn.Module], optimizers: Sequence[Any],
                        load: Mapping[str, Any]) -> None:  # fmt: skip
        for n, optimizer in enumerate(optimizers):
            self.load_optimizer(folder, n, _own(models), optimizer, load)

    def load_optimizer(
        self, folder: Path, number: int, models: Sequence[nn.Module], optimizer: Any, load: Mapping[str, Any]
    ) -> None:
        """Fill one optimizer of parameters of these models; arguments as of `load_optimizers`."""
        names, home = names_of(models, optimizer, number), folder / optimizer_folder(number)
        if has_shards(home):
            parts = self._each(_parts, home, optimizer, names, load)
            self._strategy.load_optimizer_state(_first(models), _inner(optimizer), parts, full=False)
        else:
            whole = self._each(self._whole_state, folder, number, names, load)
            self._strategy.load_optimizer_state(_first(models), _inner(optimizer), whole)

    def _whole_state(self, folder: Path, number: int, names: Names, load: Mapping[str, Any]) -> dict[str, Any]:
        return {} if self._world.rank else by_number(read_optimizer(folder, number, load), names)

    def _each(self, work: Callable[..., Result], *args: Any) -> Result:
        """Do something that talks to nobody, and fail on every rank if it failed on one."""
        return each_alone(partial(work, *args), self._world, _LOADING)

    def check_nodes(self) -> None:
        if self._on_each_node and self._world.local_size < self._world.size:
            raise PlanError(
                "ProjectConfiguration(save_on_each_node=True) with FSDP on several machines",
                "a rank has only a part of the model, and no machine has all of it.",
                "Use a folder that all machines share, and leave save_on_each_node out.",
            )


def _first(models: Sequence[nn.Module]) -> nn.Module:
    return models[0] if models else nn.Module()


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


def _own(models: Sequence[nn.Module]) -> list[nn.Module]:
    return [extract_model_from_parallel(model, keep_torch_compile=False) for model in models]


def _check_shape(name: str, home: Path, stored: torch.Size | None, own: Any) -> None:
    if isinstance(own, torch.Tensor) and stored != own.shape:
        there = "no tensor" if stored is None else f"of shape {tuple(stored)}"
        raise StateError(
            f"{name} in {home} is {there}, and the model's is of shape {tuple(own.shape)}. Build the model as it was "
            "when this was written."
        )


def _parts(home: Path, optimizer: Any, names: Names, load: Mapping[str, Any]) -> dict[str, Any]:
    """This rank's part of an optimizer's state as the shards have it: the optimizer may have none yet."""
    shards = ShardFolder(home, load)
    parameters = {
        name: parameter
        for group, some in zip(optimizer.param_groups, names, strict=True)
        for name, parameter in zip(some, group["params"], strict=True)
    }
    values: dict[str, Any] = {}
    for key in shards.keys:
        _, kind, *inner = shards.path(key)
        if kind != "state":
            values[key] = shards.empty(key)
        elif inner and inner[0] in parameters:
            values[key] = _place_for(shards, key, parameters[str(inner[0])])
    shards.fill(values)
    found = nested((shards.path(key), value) for key, value in values.items()).get(OPTIMIZER_KEY, {})
    return by_number({"state": {}, "param_groups": [], **found}, names)


def _place_for(shards: ShardFolder, key: str, parameter: torch.Tensor) -> Any:
    dtype = shards.dtype(key)
    if dtype is not None and isinstance(parameter, DTensor) and parameter.ndim and shards.shape(key) == parameter.shape:
        return empty_like(parameter, dtype)
    return shards.empty(key)
