"""Values that must not be shown: tokens, keys, passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nbaccel.config.schema import KEYS

MASK = "********"
_SECRET = re.compile(r"(^|[._-])(api-?key|key|token|password|passwd|secret|credentials?)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a key or variable of this name (with dots between) holds a secret."""
    return KEYS[name].is_secret if name in KEYS else bool(_SECRET.search(name))


def masked(name: str, value: object) -> object:
    """The value, or asterisks in its place; looks into mappings and lists."""
    if isinstance(value, Mapping):
        return {inner: masked(f"{name}.{inner}", held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked(name, item) for item in value)
    return MASK if is_secret(name) and value is not None else value
