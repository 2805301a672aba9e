"""Values that must not be shown: tokens, keys, passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nbaccel.config.schema import KEYS

MASK = "********"
_SECRET = re.compile(
    r"(^|[._-])(api-?key|access-?key|key|token|password|passwd|passphrase|pwd|secrets?|credentials?)$", re.IGNORECASE
)
_ASSIGNED = re.compile(r"""(?<![\w.-])(?P<name>[\w.-]{1,99})["']?\s{0,9}[=:]\s{0,9}(?=\S)""")
_WORD = re.compile(r"(?<!\w)(?P<name>\w{1,99})=\S+")
"""Bounded, for lines may be long."""


def is_secret(name: str) -> bool:
    """Whether a key or variable of this name (with dots between) holds a secret."""
    return KEYS[name].is_secret if name in KEYS else bool(_SECRET.search(name))


def masked(name: str, value: object) -> object:
    """The value, or asterisks in its place; looks into mappings, lists and texts such as `HF_TOKEN=...`."""
    if value is None:
        return None
    if is_secret(name):
        return MASK
    if isinstance(value, Mapping):
        return {inner: masked(f"{name}.{inner}", held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        items = [masked(name, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return _WORD.sub(_without_value, value) if isinstance(value, str) and "=" in value else value


def _without_value(found: re.Match[str]) -> str:
    return f"{found['name']}={MASK}" if is_secret(found["name"]) else found[0]


def masked_line(line: str) -> str:
    """A line of a file as errors may show it: what is assigned to a secret name is left out."""
    found = next((found for found in _ASSIGNED.finditer(line) if is_secret(found["name"])), None)
    return line if found is None else f"{line[: found.end()]}{MASK}"
