"""A model's weights as names and tensors: tied ones, prefixes of containers, size in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.unwrap import extract_model_from_parallel

_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")


def size_in_bytes(size: int | str) -> int:
    """A size such as `10GB` (10**9 bytes each) or `5MiB`. Raises CallError for other words."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", str(size).upper())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise CallError(f"max_shard_size={size!r}: possible are a number of bytes above 0, or '500MB', '10GB', '5GiB'.")
    return max(int(float(found[1]) * _UNITS[found[2]]), 1)


def without_twins(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Each tensor once, under the first of its names: safetensors knows no tied weights, and loaders expect this.

    Raises:
        CallError: there is something else than tensors in it.
    """
    known: set[tuple[Any, ...]] = set()
    single = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CallError(
                f"the model's state holds {name!r}, a {type(value).__name__}; safetensors takes tensors alone. "
                "Use safe_serialization=False."
            )
        where = _place(value)
        if where not in known:
            single[name] = value
        if value.nbytes:
            known.add(where)
    return single


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def load_weights(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True, **options: Any) -> None:
    """Fill a model, whatever containers it is in or was in when the state was written.

    Args:
        model: a prepared model.
        state: names and tensors; tied weights may stand under one of their names alone.
        strict: names must agree.
        options: arguments of `Module.load_state_dict`.

    Raises:
        StateError: names or shapes do not agree.
    """
    own = extract_model_from_parallel(model, keep_torch_compile=False)
    named = fitted(own, state)
    if strict:
        refuse_others(own, named)
    try:
        own.load_state_dict(named, strict=False, **options)
    except RuntimeError as error:
        raise StateError(f"{error} Build the model as it was when this was written.") from None


def fitted(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by the model's own names, tied ones under each of theirs.

    Args:
        model: the user's own module.
        state: names, perhaps with those of containers, and tensors.
    """
    wanted = model.state_dict()
    named = {name if name in wanted else _PREFIXES.sub("", name): value for name, value in state.items()}
    for twins in _tied(model):
        written = next((name for name in twins if name in named), None)
        if written is not None:
            named |= {name: named[written] for name in twins if name in wanted and name not in named}
    return named


def _tied(model: nn.Module) -> Iterator[list[str]]:
    """Names that stand for one tensor."""
    known: dict[Any, list[str]] = {}
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        known.setdefault(_identity(tensor), []).append(name)
    yield from (names for names in known.values() if len(names) > 1)


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    is_whole = not hasattr(tensor, "full_tensor") and tensor.nbytes  # parts on this rank may all be empty
    return _place(tensor) if is_whole else (id(tensor),)


def refuse_others(model: nn.Module, names: Iterable[str]) -> None:
    """Raises StateError if names of weights are not those of the model."""
    wanted, given = model.state_dict().keys(), set(names)
    missing = [name for name in wanted if name not in given]
    unknown = sorted(given - wanted)
    if missing or unknown:
        raise StateError(
            f"these weights are not of this {type(model).__name__}: {_some('the model also has', missing)}"
            f"{_some('the file also has', unknown)}Build the model as it was, or give strict=False."
        )


def _some(said: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{said} {', '.join(names[:3])}{more}. " if names else ""


@dataclass(frozen=True)
class Shards:
    """How weights are spread over files.

    Attributes:
        files: names of the weights, by file.
        num_bytes: of all weights together.
    """

    files: dict[str, list[str]]
    num_bytes: int

    @property
    def is_single(self) -> bool:
        return len(self.files) == 1

    def index(self) -> dict[str, Any]:
        """What the index file says."""
        return {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(self._pairs()))}

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for file, names in self.files.items():
            for name in names:
                yield name, file


def split(state: Mapping[str, torch.Tensor], limit: int, stem: str, ending: str) -> Shards:
    """Put weights into files of at most `limit` bytes, in their order; a larger one gets a file of its own.

    Args:
        state: names and tensors; those that share memory stay together.
        limit: bytes of one file.
        stem: name of a file without its ending.
        ending: `.safetensors` or `.bin`.
    """
    groups: list[list[str]] = [[]]
    filled, total = 0, 0
    for names, num_bytes in _together(state):
        if groups[-1] and filled + num_bytes > limit:
            groups.append([])
            filled = 0
        groups[-1] += names
        filled += num_bytes
        total += num_bytes
    count = len(groups)
    if count == 1:
        return Shards({f"{stem}{ending}": groups[0]}, total)
    files = {f"{stem}-{number:05}-of-{count:05}{ending}": names for number, names in enumerate(groups, 1)}
    return Shards(files, total)


def _together(state: Mapping[str, torch.Tensor]) -> Iterable[tuple[list[str], int]]:
    found: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and tensor.nbytes
        found.setdefault(tensor.untyped_storage().data_ptr() if plain else name, []).append(name)
    for names in found.values():
        yield names, max(state[name].nbytes for name in names)
