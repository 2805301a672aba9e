"""The reference page and the JSON Schema of the configuration, made from the schema.

The page: `python -m nbaccel.config.reference > docs/configuration.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from nbaccel.config.files.read import INCLUDE
from nbaccel.config.schema import COMMON, KEYS, SECTIONS, SHORTHANDS, Key, RunConfig
from nbaccel.config.schema.key import EVERYWHERE

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
_HEADS = ("key", "possible", "default", "variable", "flag", "honoured by", "what it is for")


# --- the page ---


def page() -> str:
    """The reference page, as Markdown."""
    text = (files("nbaccel.config") / "reference.md").read_text(encoding="utf-8")
    groups = dict.fromkeys(key.group for key in _common_first(KEYS.values()))
    tables = "\n".join(_group(name, [key for key in KEYS.values() if key.group == name]) for name in groups)
    return text.replace("<!-- shorthands -->", _shorthands()).replace("<!-- keys -->", tables)


def _common_first(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: COMMON.index(key.name) if key.name in COMMON else len(COMMON))


def _group(name: str, keys: list[Key]) -> str:
    lines = [f"### {name}", "", _row(_HEADS), _row(["---"] * len(_HEADS))]
    return "\n".join([*lines, *(_row(_cells(key)) for key in keys), ""])


def _cells(key: Key) -> list[str]:
    return [
        _code(key.name),
        key.possible,
        _shown(key.default),
        _code(key.env),
        ", ".join(map(_code, key.flags)),
        _launchers(key.honoured_by),
        f"{key.text}{_condition(key)}{' Secret.' if key.is_secret else ''}",
    ]


def _launchers(names: tuple[str, ...]) -> str:
    """All launchers on one machine are one word, for most keys have no more to say."""
    if not set(EVERYWHERE) <= set(names):
        return ", ".join(names)
    return ", ".join(["all", *(name for name in names if name not in EVERYWHERE)])


def _condition(key: Key) -> str:
    if key.needs is None:
        return ""
    other, words = key.needs
    return f" Only with {_code(other)} {' or '.join(words)}."


def _shorthands() -> str:
    rows = [
        (_code(flag), _code(variable) if variable else "", _code(f"{key}: {value}"))
        for flag, (variable, key, value) in SHORTHANDS.items()
    ]
    return "\n".join(map(_row, [("flag", "variable", "means"), ("---", "---", "---"), *rows]))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _code(text: str) -> str:
    return f"`{text}`"


def _shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return _code(str(default).lower())
    if isinstance(default, tuple):
        return _code(f"[{', '.join(str(item).lower() for item in default)}]") if default else ""
    return "" if default in ("", {}) else _code(f"{default:g}" if isinstance(default, float) else str(default))


# --- the JSON Schema ---


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file, for editors; says variable and flag of each key."""
    made = RunConfig.model_json_schema()
    inside = {name: made["$defs"][model.__name__]["properties"] for name, model in SECTIONS.items()}
    properties: dict[str, Any] = {INCLUDE: _INCLUDED}
    for name, described in made["properties"].items():
        properties[name] = _section(name, inside[name]) if name in SECTIONS else _value(KEYS[name], described)
    return {
        "$schema": _DIALECT,
        "title": "Configuration of nbaccel",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


_INCLUDED = {
    "description": "Files that this one builds on, by paths relative to its folder; later ones win.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
}


def _section(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    keys = {inner: _value(KEYS[f"{name}.{inner}"], described) for inner, described in properties.items()}
    whole = {"type": "object", "properties": keys, "additionalProperties": False}
    others = [{"type": "null"}, *([{"type": "string"}] if name == "deepspeed_config" else [])]
    return {"description": RunConfig.model_fields[name].description, "anyOf": [whole, *others]}


def _value(key: Key, described: Mapping[str, Any]) -> dict[str, Any]:
    """A key's values as files may hold them: also null, several words in one text, and `${...}`."""
    allowed = list(described.get("anyOf") or [_bare(described)])
    if any(one.get("type") == "array" for one in allowed) and not key.name.endswith("override_linear_precision"):
        allowed.append({"type": "string"})
    elif {"type": "string"} not in allowed:
        allowed.append(_INTERPOLATION)
    if key.name == "gpu_ids":
        allowed.append({"type": "integer", "minimum": 0})
    if {"type": "null"} not in allowed:
        allowed.append({"type": "null"})
    made = {"description": key.text, "anyOf": allowed, "default": _plain(key.default), "x-env": key.env}
    made |= {"x-flag": key.flags[0], "x-group": key.group, "x-honoured-by": list(key.honoured_by)}
    if key.needs is not None:
        made["x-needs"] = {key.needs[0]: list(key.needs[1])}
    return {**made, "writeOnly": True} if key.is_secret else made


def _bare(described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in described.items() if name not in ("default", "title", "description", "nbaccel")
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    print(page(), end="")
