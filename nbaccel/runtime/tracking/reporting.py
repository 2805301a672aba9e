"""Numbers that training code logs, on their way to whoever watches the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from nbaccel.runtime.tracking.plain import numbers, plain

Send = Callable[[Mapping[str, Any], float | None], None]


class _Link:
    """The way to the watcher, open in the process that made it and not in those forked from there."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.owner = os.getpid()


_link: _Link | None = None


def connect(send: Send) -> None:
    """From now on, somebody watches.

    Args:
        send: takes values by name (see `kept`) and their step, None for the next one; called in whichever thread logs.
    """
    global _link
    _link = _Link(send)


def disconnect() -> None:
    """Nobody watches any more."""
    global _link
    _link = None


def report(values: Mapping[str, Any], step: float | None) -> None:
    """Tell whoever watches; costs nothing where nobody does.

    Args:
        values: what was logged; what is no number is left out.
        step: where, None for the next step.
    """
    link = _link
    if link is not None and link.owner == os.getpid() and (found := kept(values)):
        link.send(found, step)


def kept(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers as they are just now: Python's own, but those on a device as copies there.

    To fetch a number from a device makes the program wait until the device has come so far; that is left to
    `fetched`, which need not be called at each step.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if type(value) is float:
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= kept(value, f"{prefix}{name}/")
        elif _is_on_device(value):
            found[f"{prefix}{name}"] = value.detach().clone()
        else:
            found |= numbers(plain({f"{prefix}{name}": value}))
    return found


def fetched(values: Mapping[str, Any]) -> dict[str, float]:
    """What `kept` gave, as numbers of Python."""
    return {name: value if type(value) is float else float(value) for name, value in values.items()}


def _is_on_device(value: Any) -> bool:
    device = getattr(getattr(value, "device", None), "type", "cpu")
    return device != "cpu" and bool(value.numel() == 1)
