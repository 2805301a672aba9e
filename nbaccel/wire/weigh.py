"""Which variables make a parcel heavy."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbaccel.wire import shared
from nbaccel.wire.captures import variables

_MOST_NAMED = 3
_LEAST_SHARE = 0.05
_DEEPEST = 8
_MOST_ITEMS = 1000
_MOST_VISITED = 100_000
_SMALL_BYTES = 8


def heaviest(names: Mapping[str, object], total_bytes: int) -> list[tuple[str, int]]:
    """The variables that weigh most.

    Args:
        names: variables by name; a function stands for the variables that it uses.
        total_bytes: what all of it weighs together; what has little part in that is left out.

    Returns:
        At most three names with their bytes, the heaviest first: arrays, tensors, bytes and text that they hold, in
        containers and attributes, too. A tensor's storage counts once, for the first name that holds it; what lies in
        shared memory counts nothing. Of long containers some items are weighed for all.
    """
    scale = _Scale()
    weights = [(name, scale.weigh(value)) for name, value in variables(names).items()]
    heavy = [(name, weight) for name, weight in weights if weight >= max(1, _LEAST_SHARE * total_bytes)]
    return sorted(heavy, key=lambda pair: -pair[1])[:_MOST_NAMED]


class _Scale:
    """Weighs one variable after the other."""

    def __init__(self) -> None:
        self._seen: dict[int, object] = {}  # keeps what it has seen, or an id could come back as another object's
        self._storages: dict[int, int] = {}

    def weigh(self, value: object) -> int:
        """Bytes that a variable holds and none before it."""
        total = 0.0
        left = _MOST_VISITED
        waiting: list[tuple[object, float, int]] = [(value, 1.0, 0)]
        while waiting and left:
            left -= 1
            item, times, depth = waiting.pop()
            if id(item) in self._seen:
                continue
            if not isinstance(item, int | float | bool | None):
                self._seen[id(item)] = item
            own = self._own_bytes(item)
            total += times * (_SMALL_BYTES if own is None else own)
            if own is None and depth < _DEEPEST:
                children, of_all = _sample(_children(item))
                waiting += [(child, times * of_all, depth + 1) for child in children]
        return int(total)

    def _own_bytes(self, value: Any) -> int | None:
        """Bytes of something that holds data itself; None for what only holds other things."""
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if isinstance(value, bytes | bytearray | str):
            return len(value)
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor_bytes(value)
        if numpy is not None and isinstance(value, numpy.ndarray):
            return None if value.dtype.hasobject else _array_bytes(value)
        size = getattr(type(value), "__sizeof__", object.__sizeof__)
        if size is not object.__sizeof__ and type(value).__module__ != "builtins":
            return sys.getsizeof(value)  # a data frame says what it holds
        return None

    def _tensor_bytes(self, tensor: Any) -> int:
        size = tensor.element_size()
        if "sparse" in str(tensor.layout):
            return int(tensor._nnz() * (size + 8 * tensor.ndim))
        shown = int(tensor.numel() * size)
        try:
            storage = tensor.untyped_storage()
            key, most = storage._cdata, storage.nbytes()
            if tensor.device.type == "cpu" and shared.find(storage.data_ptr(), most):
                return 0
        except (RuntimeError, NotImplementedError, ValueError):
            return shown  # no storage of its own
        counted = self._storages.get(key, 0)
        self._storages[key] = min(counted + shown, most)
        return self._storages[key] - counted


def _array_bytes(array: Any) -> int:
    return 0 if shared.find(array.ctypes.data, 1) else int(array.nbytes)


def _children(value: Any) -> Sequence[object]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return list(value.flat)
    return list(_attributes(value))


def _attributes(value: Any) -> Iterator[object]:
    if not isinstance(value, type):
        yield from getattr(value, "__dict__", {}).values()


def _sample(children: Sequence[object]) -> tuple[Sequence[object], float]:
    """Some of the children, and for how many each of them stands."""
    if len(children) <= _MOST_ITEMS:
        return children, 1.0
    some = children[:: len(children) // _MOST_ITEMS][:_MOST_ITEMS]
    return some, len(children) / len(some)
