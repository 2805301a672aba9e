"""What the code of a run has noted on a module beside its weights: `model.best = 0.9`, `model.history.append(loss)`.

Plain values count, numpy's and containers of them too, under public names. What is needed where the run is (a device, a
callback, a trainer, a patched `forward`, a library's bookkeeping) stays there.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

Attributes = Mapping[str, Mapping[str, Any]]
"""Values by the dotted name of a part and the name of the attribute."""

_OF_LIBRARIES = frozenset(
    {"training", "gradient_checkpointing", "hf_device_map", "is_parallelizable", "model_parallel"}
)
"""Each travels in another way, or is worth nothing where the run is not, or without a private attribute beside it."""
_VALUES = frozenset({bool, int, float, complex, str, bytes, type(None)})
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset, OrderedDict, Counter})
_MODULES = frozenset({"datetime", "decimal", "fractions", "pathlib"})
_DEEPEST = 8


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
            same = vars(parts[part])[name] == value
            return not bool(same.all() if hasattr(same, "all") else same)
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


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in _OF_LIBRARIES


def _is_plain(value: Any, deepest: int = _DEEPEST) -> bool:
    kind = type(value)
    if kind in _CONTAINERS:
        inner = (*value, *value.values()) if isinstance(value, dict) else value
        return deepest > 0 and all(_is_plain(one, deepest - 1) for one in inner)
    module = kind.__module__.partition(".")[0]
    return kind in _VALUES or module in _MODULES or (module == "numpy" and _holds_numbers(value))


def _holds_numbers(value: Any) -> bool:
    """Whether it is an array or a number of numpy, of no objects of others."""
    return hasattr(value, "dtype") and not value.dtype.hasobject


def _items(value: Any) -> list[Any] | None:
    """What is in a container that can be changed in place; None for all else."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | set) else None


def _same_items(before: list[Any] | None, now: list[Any] | None) -> bool:
    if before is None or now is None or len(before) != len(now):
        return before is now
    return all(mine is other for mine, other in zip(before, now, strict=True))
