"""What the code of a run has noted on a module beside its weights: `model.best = 0.9`, `model.history.append(loss)`.

Plain attributes count, those with public names. What a library needs where the run is (a device, a callback, a patched
`forward`, its own bookkeeping) means nothing elsewhere and stays there.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

Attributes = Mapping[str, Mapping[str, Any]]
"""Values by the dotted name of a part and the name of the attribute."""

_OF_LIBRARIES = frozenset({"training", "gradient_checkpointing"})
"""Each travels in another way, or is worth nothing without a private attribute beside it."""
_MACHINERY = frozenset(
    {"torch", "nbaccel", "accelerate", "transformers", "lightning", "pytorch_lightning", "deepspeed"}
)
_CALLABLES = (
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
    functools.partial,
)


class Noted:
    """The attributes of a module and its parts as they were at one time."""

    def __init__(self, root: Any) -> None:
        """Look at a module; no value is copied, of containers the list of what is in them."""
        self._values = {
            part: {name: (value, _items(value)) for name, value in vars(module).items() if _is_public(name)}
            for part, module in root.named_modules()
        }

    def changed(self, root: Any) -> Attributes:
        """What the module has now and had not then."""
        return _filtered(root, self._is_new)

    def _is_new(self, part: str, name: str, value: Any) -> bool:
        if name not in self._values.get(part, {}):
            return True
        before, items = self._values[part][name]
        return value is not before or not _same_items(items, _items(value))


def differing(mine: Any, theirs: Any) -> Attributes:
    """What another module of the same structure has and mine has not; an equal value counts as the same."""
    parts = dict(mine.named_modules())

    def differs(part: str, name: str, value: Any) -> bool:
        try:
            return not bool(vars(parts[part])[name] == value)
        except Exception:  # noqa: BLE001 - it has none such, or the value's class compares in a way of its own
            return True

    return _filtered(theirs, differs)


def _filtered(root: Any, wanted: Callable[[str, str, Any], bool]) -> Attributes:
    found: dict[str, dict[str, Any]] = {}
    for part, module in root.named_modules():
        for name, value in vars(module).items():
            if _is_public(name) and wanted(part, name, value) and _is_plain(value):
                found.setdefault(part, {})[name] = value
    return found


def note_on(root: Any, attributes: Attributes) -> None:
    """Set attributes of a module and its parts."""
    for part, values in attributes.items():
        vars(root.get_submodule(part)).update(values)


def sendable(attributes: Attributes, can_send: Callable[[Any], bool]) -> tuple[Attributes, tuple[str, ...]]:
    """The attributes that can be sent, and the dotted names of those that cannot."""
    kept: dict[str, dict[str, Any]] = {}
    left_out = []
    for part, values in attributes.items():
        for name, value in values.items():
            if can_send(value):
                kept.setdefault(part, {})[name] = value
            else:
                left_out.append(f"{part}.{name}".removeprefix("."))
    return kept, tuple(left_out)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in _OF_LIBRARIES


def _is_plain(value: Any) -> bool:
    return not any(map(_is_machinery, (value, *(_items(value) or ()))))


def _is_machinery(value: Any) -> bool:
    return isinstance(value, _CALLABLES) or any(
        kind.__module__.partition(".")[0] in _MACHINERY for kind in type(value).__mro__
    )


def _items(value: Any) -> list[Any] | None:
    """What is in a container that can be changed in place; None for all else."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | set) else None


def _same_items(before: list[Any] | None, now: list[Any] | None) -> bool:
    if before is None or now is None or len(before) != len(now):
        return before is now
    return all(mine is other for mine, other in zip(before, now, strict=True))
