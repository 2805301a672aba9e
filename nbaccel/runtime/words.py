"""Small questions about names, mappings and ports, which training scripts import from Accelerate."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping, MutableMapping
from typing import Any


def get_pretty_name(obj: Any) -> str:
    """The name of a class or function, else that of the object's class."""
    for source in (obj, type(obj)):
        name = getattr(source, "__qualname__", None) or getattr(source, "__name__", None)
        if name:
            return str(name)
    return str(obj)


def merge_dicts(source: Mapping[Any, Any], destination: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
    """Put the entries of one mapping into another, and those of mappings inside likewise.

    Args:
        source: whose values win.
        destination: is changed.

    Returns:
        `destination`.
    """
    for key, value in source.items():
        if isinstance(value, Mapping):
            merge_dicts(value, destination.setdefault(key, {}))
        else:
            destination[key] = value
    return destination


def recursive_getattr(obj: Any, attr: str) -> Any:
    """An attribute of an attribute, as `layer.0.weight`."""
    return functools.reduce(getattr, attr.split("."), obj)


def is_port_in_use(port: int | str | None = None) -> bool:
    """Whether something listens on a TCP port of this machine; left out: 29500."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(29500 if port is None else port))) == 0


def get_free_port() -> int:
    """A TCP port of this machine that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
