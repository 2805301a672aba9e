"""Values as people write them: text of a field into a value, and a value into text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nbaccel.config import KEYS, Layer, plain_value
from nbaccel.config.files.write import UNSET, Unset
from nbaccel.config.layers import PARAMS
from nbaccel.config.schema.key import listed

LONGEST = 60
"""Characters of a value that are shown where there is little room."""

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>[kmbgt]?)(illion)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def is_mapping(key: str) -> bool:
    """Whether a key takes a mapping, which is written as YAML."""
    return key in KEYS and KEYS[key].possible == "a mapping"


def is_lines(key: str) -> bool:
    """Whether a key takes several texts, each with commas and blanks of its own."""
    return key in KEYS and KEYS[key].possible == "a text, or a list of them"


def value_of(key: str, text: str) -> object | Unset:
    """What a field's text means; empty: the key is not set here."""
    text = text.strip()
    if not text:
        return UNSET
    if key not in KEYS or is_mapping(key):
        return plain_value(text)
    if text.lower() in ("null", "~") and KEYS[key].is_nullable:
        return None
    if is_lines(key) and listed(text) != (text,):
        return list(listed(text))
    return text


def text_of(key: str, value: Any) -> str:
    """A value as the text that means it."""
    is_own = key == PARAMS or key.startswith(f"{PARAMS}.")
    if isinstance(value, str):
        return value if not is_own or plain_value(value) == value else json.dumps(value)
    return shown(value, "null")


def apart(layer: Layer) -> Layer:
    """Settings without those that lie inside another one, which has a value of its own."""
    return {key: setting for key, setting in layer.items() if not any(outer in layer for outer in _around(key))}


def _around(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def shown(value: Any, none: str = "not set") -> str:
    """A value for the eye.

    Args:
        value: what it is.
        none: the word for None.
    """
    if value is None:
        return none
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == ():
        return "none"
    if isinstance(value, list | tuple) and not any(isinstance(item, Mapping | list | tuple) for item in value):
        return ",".join(map(shown, value)) if isinstance(value, tuple) else json.dumps(value, default=str)
    return json.dumps(value, default=str) if isinstance(value, Mapping | list | tuple) else str(value)


def shortened(text: str) -> str:
    """A text that is no longer than there is room for."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def number_in(text: str) -> float | None:
    """A number as people write a model's size: `125M`, `7b`, `1.3e9`; None if it is none."""
    found = _SIZE.fullmatch(text.strip().replace(",", ""))
    return float(found["number"]) * _UNITS[found["unit"].lower()] if found else None
