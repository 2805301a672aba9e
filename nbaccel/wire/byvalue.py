"""Objects that pickle sends as the name of a module's variable, which a fresh `__main__` does not have."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cloudpickle import cloudpickle as internals


def reduce_by_value(obj: Any) -> Any:
    """Reduce a cached function, or a new type, that no module has; NotImplemented for all else."""
    reduce = _REDUCERS.get(type(obj))
    if reduce is None or internals._lookup_module_and_qualname(obj) is not None:
        return NotImplemented
    return reduce(obj)


def _reduce_cached(function: Any) -> Any:
    state = {name: value for name, value in vars(function).items() if name != "cache_parameters"}
    return _cached, (function.__wrapped__, function.cache_parameters()), state


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    """In a pickle: a function with an empty cache."""
    return functools.lru_cache(**parameters)(function)


def _reduce_new_type(made: Any) -> Any:
    return typing.NewType, (made.__name__, made.__supertype__), dict(vars(made))


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    functools._lru_cache_wrapper: _reduce_cached,
    typing.NewType: _reduce_new_type,
}
