"""How sharded models come home: at the end of a run, all ranks join the parts of what one of them sends.

The ranks talk through the store of the process group until all of them have ended well: a collective would hang, or
meet a rank's own one, if one of them had failed. Only then do they gather, tensor by tensor.
"""

from __future__ import annotations

import copyreg
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from nbaccel.errors import ShipError
from nbaccel.runtime.parallel import registry
from nbaccel.runtime.parallel.spread import whole
from nbaccel.runtime.parallel.states import reshard

Made = TypeVar("Made")
Whole = Callable[[Any], Any]
"""Gives the full value of a DTensor, on the CPU."""
Make = Callable[[Whole | None], Made]
"""Makes what is sent home; is given None where parts cannot be joined."""

_FAILED, _HAS_NOTHING, _SENDS = "failed", "has nothing", "sends"
_END = "end"
_LONGEST_PAUSE_S = 0.02


class Homecoming:
    """One run's end on one rank.

    Args:
        run: number of the run, the same on all ranks and never used before in this process group.
    """

    def __init__(self, run: int) -> None:
        self._store = dist.PrefixStore(f"nbaccel/home/{run}", dist.distributed_c10d._get_default_store())  # type: ignore[attr-defined]
        self._rank, self._size = dist.get_rank(), dist.get_world_size()

    def tell_failed(self) -> None:
        """Let the other ranks not wait for this one."""
        with suppress(RuntimeError):  # the store may have gone with the rank that served it
            self._store.compare_set(f"end/{self._rank}", "", _FAILED)

    def together(self, make: Make[Made] | None) -> Made | None:
        """Make what this rank sends home, while the others help; and help them.

        Args:
            make: is given what joins the parts of a tensor; None if this rank sends nothing.

        Returns:
            What `make` gave.
        """
        ends = self._agree("end", _HAS_NOTHING if make is None else _SENDS)
        made = None
        for sender in [rank for rank, end in enumerate(ends) if end == _SENDS]:
            if sender != self._rank:
                self._help(sender, ends)
            elif make is not None:
                made = self._send(make, ends)
        return made

    def _send(self, make: Make[Made], ends: Sequence[str]) -> Made:
        asking = _Asking(self._gather if _FAILED not in ends else _cannot_gather)
        try:
            with pickled_whole(asking):
                return make(asking)
        finally:
            with suppress(RuntimeError):
                self._store.set(f"ask/{self._rank}/{asking.count}", _END)

    def _gather(self, number: int, count: int) -> dict[int, torch.Tensor]:
        self._store.set(f"ask/{self._rank}/{count}", json.dumps(number))
        return self._join(self._rank, number, count)

    def _help(self, sender: int, ends: Sequence[str]) -> None:
        """Take part in what another rank gathers, until it is done."""
        count = 0
        while _FAILED not in ends and (asked := self._wait_for(f"ask/{sender}/{count}")) != _END:
            self._join(sender, json.loads(asked), count)
            count += 1

    def _join(self, sender: int, number: int, count: int) -> dict[int, torch.Tensor]:
        """Join the parts of one model or optimizer. The sender gets them, by the parts' ids."""
        parts = parts_of(number)
        known = self._agree(f"have/{sender}/{count}", str(len(parts)))
        if len(set(known)) > 1:
            raise _unjoinable("some ranks have no such model or optimizer any more", "Keep it on all ranks.")
        found = {}
        for part in parts:
            full = whole(part)
            if sender == self._rank:
                found[id(part)] = full.cpu()
        return found

    def _agree(self, what: str, mine: str) -> list[str]:
        """Tell the others, and wait for what they say; a rank's first word counts."""
        self._store.compare_set(f"{what}/{self._rank}", "", mine)
        return [self._wait_for(f"{what}/{rank}") for rank in range(self._size)]

    def _wait_for(self, key: str) -> str:
        """Waits in Python, so that an interrupt is heard."""
        pause_s = 0.0005
        while not self._store.check([key]):
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return str(self._store.get(key).decode())


class Alone:
    """In place of `Homecoming` where not all ranks take part, or their process group has ended: nothing is joined."""

    def tell_failed(self) -> None:
        """Nobody waits."""

    def together(self, make: Make[Made] | None) -> Made | None:
        """Make what this rank sends home; sharded models in it are an error."""
        if make is None:
            return None
        with pickled_whole(_refuse):
            return make(None)


def _refuse(tensor: Any) -> Any:
    raise _unjoinable("its parts lie on several ranks", "Ask for it in a run on all ranks, on their present group.")


class _Asking:
    """Gathers whole models and optimizers, each once, as their tensors are asked for.

    Args:
        gather: joins the parts of a numbered one; the second number counts the requests.
    """

    def __init__(self, gather: Callable[[int, int], dict[int, torch.Tensor]]) -> None:
        self._gather = gather
        self._numbers = {id(part): entry.number for entry in registry.entries() for part in parts_of(entry.number)}
        self._full: dict[int, torch.Tensor] = {}
        self.count = 0

    def __call__(self, tensor: Any) -> torch.Tensor:
        if id(tensor) not in self._full:
            self._full.update(self._asked(tensor))
        return self._full[id(tensor)]

    def _asked(self, tensor: Any) -> dict[int, torch.Tensor]:
        number = self._numbers.get(id(tensor))
        if number is None:
            raise _unjoinable(
                "it belongs to no prepared model or optimizer",
                "Give back tensor.full_tensor(), asked for on all ranks.",
            )
        found = self._gather(number, self.count)
        self.count += 1
        return found


def _cannot_gather(number: int, count: int) -> dict[int, torch.Tensor]:
    raise _unjoinable("its parts lie on all ranks, and one of them has failed", "Run it again without the error.")


def _unjoinable(reason: str, remedy: str) -> ShipError:
    return ShipError("a sharded model", "DTensor", reason, remedy)


def parts_of(number: int) -> list[DTensor]:
    """The tensors of one model or optimizer that are spread, in an order that all ranks share; empty if it is gone."""
    owner = next((entry.owner() for entry in registry.entries() if entry.number == number), None)
    if isinstance(owner, nn.Module):
        reshard(owner)
        tensors: list[Any] = [*owner.parameters(), *owner.buffers()]
    elif owner is not None:
        states = [owner.state[one] for group in owner.param_groups for one in group["params"] if one in owner.state]
        tensors = [state[name] for state in states for name in sorted(state)]
    else:
        tensors = []
    return [tensor for tensor in tensors if isinstance(tensor, DTensor)]


@contextmanager
def pickled_whole(full: Whole) -> Iterator[None]:
    """In this block, sharded models, optimizers and their tensors are pickled as one process's would be."""
    kinds: set[type] = {DTensor}
    for entry in registry.entries():
        owner = entry.owner()
        if isinstance(owner, nn.Module):
            kinds |= {type(part) for part in owner.modules()}
    before = {kind: copyreg.dispatch_table.get(kind) for kind in kinds}
    table: dict[type, Any] = copyreg.dispatch_table
    table.update(dict.fromkeys(kinds, _reduce_module))
    table[DTensor] = lambda tensor: _reduce_tensor(tensor, full)
    try:
        yield
    finally:
        for kind, reduce in before.items():
            table.pop(kind, None)
            if reduce is not None:
                table[kind] = reduce


def _reduce_tensor(tensor: DTensor, full: Whole) -> tuple[Any, ...]:
    value = full(tensor)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter, (value, tensor.requires_grad)
    return torch.Tensor.detach, (value,)


def _reduce_module(module: nn.Module) -> tuple[Any, ...]:
    """As pickle would have it, without what FSDP has put into it."""
    reduced = module.__reduce_ex__(4)
    if isinstance(reduced, str) or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return reduced  # type: ignore[return-value]
    _, arguments, state, *rest = reduced
    own = type(module).__mro__[2] if isinstance(module, FSDPModule) else type(module)
    return registry.new_of, (own, *arguments[1:]), _without_fsdp(state), *rest


_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params", STATE_KEY, REGISTRY_KEY)


def _without_fsdp(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    kept = {name: value for name, value in state.items() if name not in _MARKS}
    for name, hooks in kept.items():
        if name.endswith("_hooks") and hooks:
            kept[name] = type(hooks)((number, hook) for number, hook in hooks.items() if not _is_torchs(hook))
    for name in ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        numbers = kept.get("_forward_pre_hooks" if "pre" in name else "_forward_hooks", {})
        if name in kept:
            kept[name] = type(kept[name])((number, flag) for number, flag in kept[name].items() if number in numbers)
    return kept


def _is_torchs(hook: Any) -> bool:
    module = getattr(getattr(hook, "hook", hook), "__module__", None) or ""
    return module.startswith("torch.distributed.")
