"""Values that must not be shown: tokens, keys, passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nbaccel.config.layers import PARAMS
from nbaccel.config.schema import KEYS

MASK = "********"
_SECRET = re.compile(
    r"(^|[._-])(api-?key|access-?key|key|token|password|passwd|passphrase|pwd|secrets?|credentials?)$", re.IGNORECASE
)
_OF_MODELS = re.compile(
    r"(^|[._-])("
    r"(audio|begin|blank|bos|cls|delimiter|end|eod|eos|eot|first|image|last|mask|null|pad(ding)?|per|prefix|sep(arator)?"
    r"|sos|sot|special|start|stop|suffix|timestamp|unk(nown)?|video)[_-]token"
    r"|(answer|audio|caption|category|class|column|dataset|dict|feature|group|image|index|input|label|loss|mask"
    r"|metric|monitor|output|prompt|question|response|sample|score|sort|target|text|video|weight)[_-]key"
    r")$",
    re.IGNORECASE,
)
"""Tokens of a vocabulary, and keys of mappings and columns: `pad_token`, `label_key`."""
_ASSIGNED = re.compile(r"""(?<![\w.-])(?P<name>[\w.-]{1,99})["']?\s{0,9}[=:]\s{0,9}(?=\S)""")
_WORD = re.compile(r"(?<!\w)(?P<name>\w{1,99})=\S+")
"""Bounded, for lines may be long."""


def is_secret(name: str) -> bool:
    """Whether a key or variable of this name (with dots between) holds a secret."""
    if name in KEYS:
        return KEYS[name].is_secret
    return _SECRET.search(name) is not None and _OF_MODELS.search(name) is None


def variable_of(name: str) -> str:
    """The variable that sets a key, or a parameter of the user's own."""
    return KEYS[name].env if name in KEYS else name.removeprefix(f"{PARAMS}.").upper().replace(".", "_")


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


def without_secrets(name: str, value: object) -> object:
    """A value as files hold it: None in place of a secret, which says that there was one, else as `masked`."""
    if isinstance(value, Mapping) and not is_secret(name):
        return {inner: without_secrets(f"{name}.{inner}", held) for inner, held in value.items()}
    return None if is_secret(name) else masked(name, value)


def _without_value(found: re.Match[str]) -> str:
    return f"{found['name']}={MASK}" if is_secret(found["name"]) else found[0]


def masked_line(line: str) -> str:
    """A line of a file as errors may show it: what is assigned to a secret name is left out."""
    found = next((found for found in _ASSIGNED.finditer(line) if is_secret(found["name"])), None)
    return line if found is None else f"{line[: found.end()]}{MASK}"
