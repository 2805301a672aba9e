"""Names what cannot be sent: walks from a value that does not pickle to the innermost part that is to blame."""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections.abc import Iterator, Mapping

from nbaccel.errors import ShipError
from nbaccel.wire.codec import can_encode

_MOST_CHILDREN = 200
_DEEPEST = 8

_ADVICE = {
    "lock": "a lock works only inside one process",
    "RLock": "a lock works only inside one process",
    "Condition": "a lock works only inside one process",
    "generator": "a generator cannot be copied",
    "TextIOWrapper": "an open file belongs to one process",
    "BufferedReader": "an open file belongs to one process",
    "BufferedWriter": "an open file belongs to one process",
    "socket": "a connection belongs to one process",
    "Connection": "a connection belongs to one process",
    "frame": "a running frame cannot be copied",
}


def find_culprit(value: object, path: str, error: Exception) -> ShipError:
    """An error that names the part of a value that does not pickle.

    Args:
        value: what was to be sent.
        path: what the user calls it ("the function `train`").
        error: what pickling it raised.
    """
    return _search(value, path, error, 0, set())


def _search(value: object, path: str, error: Exception, depth: int, seen: set[int]) -> ShipError:
    seen.add(id(value))
    if depth < _DEEPEST:
        for child_path, child in _children(value, path):
            if id(child) in seen:
                continue
            child_error = can_encode(child)
            if child_error is not None:
                return _search(child, child_path, child_error, depth + 1, seen)
    kind = type(value).__name__
    return ShipError(path, kind, _ADVICE.get(kind, f"{type(error).__name__}: {error}"), _remedy(path))


def _remedy(path: str) -> str:
    return (
        "Create it inside the function." if path.startswith("`") else "Leave it out, or create it inside the function."
    )


def _children(value: object, path: str) -> Iterator[tuple[str, object]]:
    for number, child in enumerate(_parts(value, path)):
        if number == _MOST_CHILDREN:
            return
        yield child


def _parts(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif isinstance(value, types.MethodType):
        yield f"the object of {path}", value.__self__
    elif isinstance(value, functools.partial):
        yield f"the function of {path}", value.func
        yield from _parts(value.args, f"the arguments of {path}")
        yield from _parts(value.keywords, f"the keywords of {path}")
    elif isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", child) for key, child in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{path}[{number}]", child) for number, child in enumerate(value))
    elif isinstance(value, type):
        yield from ((f"{path}.{name}", child) for name, child in vars(value).items() if not name.startswith("__"))
    else:
        yield from ((f"{path}.{name}", child) for name, child in getattr(value, "__dict__", {}).items())


def _captured(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    captured = inspect.getclosurevars(function)
    for name, child in {**captured.nonlocals, **captured.globals}.items():
        if getattr(builtins, name, None) is not child:
            yield f"`{name}`, which {function.__name__}() uses", child
    yield from (
        (f"the default {default!r} of {function.__name__}()", default) for default in function.__defaults__ or ()
    )
