"""Which variables a function uses."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from cloudpickle import cloudpickle as internals

EVERYWHERE = frozenset(("get_ipython", "exit", "quit"))
"""Names that every IPython shell puts into its own namespace: a function finds the worker's."""
OF_ANY_MODULE = frozenset((*vars(types.ModuleType("")), "__builtins__", "__builtin__", "__annotations__", "__", "___"))
"""Names that the receiver's `__main__` has for itself, or that tell of the shell's last outputs."""


def enclosed(function: types.FunctionType) -> dict[str, object]:
    """Variables of the functions around it that a function uses, by name."""
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet  # noqa: PERF203 - the usual way is free
            continue
    return found


def used_globals(function: types.FunctionType) -> dict[str, object]:
    """Global variables that a function, or one defined inside it, uses; what is there in every process left out."""
    names = [name for name in internals._extract_code_globals(function.__code__) if name not in EVERYWHERE]
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return found | globals_of_classes(function)


def globals_of_classes(function: types.FunctionType) -> dict[str, object]:
    """Global variables that the bodies of classes inside a function use: defaults, decorators, annotations.

    Code of a function says of a name whether it is global; that of a class's body does not.
    """
    names = [name for name in _looked_up_by_classes(function.__code__) if name not in EVERYWHERE | OF_ANY_MODULE]
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _looked_up_by_classes(code: types.CodeType, *, in_class: bool = False) -> Iterator[str]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            is_class = in_class or not inner.co_flags & inspect.CO_OPTIMIZED
            if is_class:
                yield from _looked_up(inner)
            yield from _looked_up_by_classes(inner, in_class=is_class)


def _looked_up(body: types.CodeType) -> Iterator[str]:
    """Names that are looked up before the class itself has bound them."""
    bound: set[str] = set()
    for step in dis.get_instructions(body):
        if step.opname == "STORE_NAME":
            bound.add(step.argval)
        elif step.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and step.argval not in bound:
            yield step.argval


def variables(names: Mapping[str, object]) -> dict[str, object]:
    """Names, and the data that functions among them use, through whichever functions, in place of those functions."""
    found: dict[str, object] = {}
    seen: set[int] = set()
    waiting = list(names.items())
    for name, value in waiting:  # grows while it is read
        if isinstance(value, types.ModuleType | type) or id(value) in seen:
            continue
        seen.add(id(value))
        inside = dict(_inside(value))
        waiting.extend(inside.items())
        if not inside:
            found.setdefault(name, value)
    return found


def _inside(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.FunctionType):
        yield from {**enclosed(value), **used_globals(value)}.items()
        yield from ((f"a default of {value.__name__}()", default) for default in value.__defaults__ or ())
    elif isinstance(value, types.MethodType):
        yield f"the object of {value.__name__}()", value.__self__
        yield value.__name__, value.__func__
    elif isinstance(value, functools.partial):
        yield getattr(value.func, "__name__", "partial"), value.func
        yield from ((f"args[{number}] of a partial", child) for number, child in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, functools._lru_cache_wrapper):
        yield getattr(value, "__name__", "a cached function"), value.__wrapped__
