"""Values of any library as plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and numbers of one element become Python's own, in nested mappings, too; all else stays."""
    return {str(name): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return plain(value)
    item = getattr(value, "item", None)
    if callable(item) and _size(value) == 1:
        return item()
    return value


def _size(value: Any) -> int:
    count = getattr(value, "numel", None)
    return int(count()) if callable(count) else int(getattr(value, "size", 0) or 0)


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers alone; those of a nested mapping as `outer/inner`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            found[f"{prefix}{name}"] = float(value)
    return found
