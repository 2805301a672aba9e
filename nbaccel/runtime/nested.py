"""Walks over nested data: tensors in lists, tuples, named tuples, mappings and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch

from nbaccel.errors import CallError

Change = Callable[[Any], Any]


def is_container(data: Any) -> bool:
    """True for what these walks descend into."""
    if isinstance(data, (torch.Tensor, str, type)):
        return False
    return isinstance(data, (list, tuple, Mapping)) or dataclasses.is_dataclass(data)


def map_leaves(change: Change, data: Any) -> Any:
    """Apply a function to every leaf.

    Args:
        change: gets each value that is not a container.
        data: nested lists, tuples, named tuples, mappings and dataclass instances.

    Returns:
        Containers of the same types around the new leaves. A container whose leaves all stayed the same objects is
        returned as it is.
    """
    if not is_container(data):
        return change(data)
    return map_children(lambda child: map_leaves(change, child), data)


def map_tensors(change: Change, data: Any) -> Any:
    """Apply a function to every tensor in nested data; other leaves stay."""
    return map_leaves(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf, data)


def leaves_of(data: Any) -> list[Any]:
    """All leaves of nested data, in the order of `map_leaves`."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_leaves(keep, data)
    return found


def children_of(data: Any) -> list[tuple[str, Any]]:
    """The direct children of one container, each with the way to it as it is written in Python."""
    if isinstance(data, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(data)]
    if isinstance(data, Mapping):
        return [(f"[{key!r}]", item) for key, item in data.items()]
    return [(f".{field.name}", getattr(data, field.name)) for field in dataclasses.fields(data)]


def with_leaves(data: Any, leaves: Iterator[Any]) -> Any:
    """Nested data of the same shape as `data` with other leaves, taken in the order of `leaves_of`."""
    return map_leaves(lambda _: next(leaves), data)


def map_children(change: Change, data: Any, skip_keys: Collection[Any] = ()) -> Any:
    """Apply a function to the direct children of one container.

    Args:
        change: gets each child.
        data: a container.
        skip_keys: entries of a mapping that stay as they are.

    Returns:
        A container of the same type, or `data` itself if every child stayed the same object.
    """
    if isinstance(data, (list, tuple)):
        return _map_sequence(change, data)
    if isinstance(data, Mapping):
        return _map_mapping(change, data, skip_keys)
    return _map_dataclass(change, data)


def _map_sequence(change: Change, data: Any) -> Any:
    changed = [change(item) for item in data]
    if all(new is old for new, old in zip(changed, data, strict=True)):
        return data
    if hasattr(data, "_fields"):  # a named tuple
        return type(data)(*changed)
    return changed if type(data) is list else type(data)(changed)


def _map_mapping(change: Change, data: Mapping[Any, Any], skip_keys: Collection[Any]) -> Any:
    changed = {key: item if key in skip_keys else change(item) for key, item in data.items()}
    if all(changed[key] is item for key, item in data.items()):
        return data
    if type(data) is dict:
        return changed
    if not isinstance(data, MutableMapping):
        return type(data)(changed)  # type: ignore[call-arg]  # by custom a mapping is made from a mapping
    twin = copy.copy(data)  # keeps what else the object holds: a default factory, attributes
    for key, item in changed.items():
        twin[key] = item
    return twin


def _map_dataclass(change: Change, data: Any) -> Any:
    old = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    new = {name: change(value) for name, value in old.items()}
    if all(new[name] is old[name] for name in old):
        return data
    twin = copy.copy(data)  # unlike replace(), works with fields that __init__ does not take
    for name, value in new.items():
        object.__setattr__(twin, name, value)  # a frozen dataclass too
    return twin


def is_tensor(data: Any) -> bool:
    """Whether it is a tensor."""
    return isinstance(data, torch.Tensor)


def is_namedtuple(data: Any) -> bool:
    """Whether it is an object of a class of named tuples."""
    return isinstance(data, tuple) and hasattr(data, "_fields") and hasattr(data, "_asdict")


def honor_type(obj: Any, generator: Iterable[Any]) -> Any:
    """A sequence of the type of `obj`, named tuples included, made of what `generator` yields."""
    return type(obj)(*generator) if is_namedtuple(obj) else type(obj)(generator)


def recursively_apply(
    func: Callable[..., Any],
    data: Any,
    *args: Any,
    test_type: Callable[[Any], bool] = is_tensor,
    error_on_other_type: bool = False,
    **kwargs: Any,
) -> Any:
    """Apply a function to certain leaves of nested data.

    Args:
        func: gets the leaf, then `args` and `kwargs`.
        data: nested data.
        args: further arguments for `func`.
        test_type: says for which leaves; left out: for tensors.
        error_on_other_type: refuse other leaves, which else stay.
        kwargs: further arguments for `func`.

    Raises:
        CallError: `error_on_other_type`, and there is another leaf.
    """
    if isinstance(data, (list, tuple, Mapping)) or (is_container(data) and not test_type(data)):
        return map_children(
            lambda child: recursively_apply(
                func, child, *args, test_type=test_type, error_on_other_type=error_on_other_type, **kwargs
            ),
            data,
        )
    if test_type(data):
        return func(data, *args, **kwargs)
    if error_on_other_type:
        name = getattr(func, "__name__", type(func).__name__)
        wanted = getattr(test_type, "__name__", type(test_type).__name__)
        raise CallError(
            f"recursively_apply({name}): there is a {type(data).__name__} among the leaves, for which {wanted}() is "
            "False. Take it out, or leave error_on_other_type out."
        )
    return data
