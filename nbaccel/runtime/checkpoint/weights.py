"""A model's weights as names and tensors: tied ones, prefixes of containers, size in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    wanted = own.state_dict()
    named = {name if name in wanted else _PREFIXES.sub("", name): value for name, value in state.items()}
    there = {_place(wanted[name]) for name in named if isinstance(wanted.get(name), torch.Tensor)}
    missing = [name for name, value in wanted.items() if name not in named and not _is_tied(value, there)]
    unknown = [name for name in named if name not in wanted]
    if strict and (missing or unknown):
        raise StateError(
            f"these weights are not of this {type(own).__name__}: {_some('the model also has', missing)}"
            f"{_some('the file also has', unknown)}Build the model as it was, or give strict=False."
        )
    try:
        own.load_state_dict(named, strict=False, **options)
    except RuntimeError as error:
        raise StateError(f"{error} Build the model as it was when this was written.") from None


def _is_tied(value: Any, there: set[tuple[Any, ...]]) -> bool:
    return isinstance(value, torch.Tensor) and _place(value) in there


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
