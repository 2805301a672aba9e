"""One value against the schema, before it is merged with anything: what editors, questions and validation need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from nbaccel.config.interpolate import has_interpolation, nested
from nbaccel.config.layers import PARAMS
from nbaccel.config.schema import KEYS, SECTIONS, RunConfig
from nbaccel.config.secrets import MASK, is_secret, masked, variable_of
from nbaccel.errors import ConfigError, nearest


def checked(key: str, value: object, place: str) -> Any:
    """A value as the schema understands it.

    Args:
        key: its dotted name; a parameter of the user's own (`params.lr`) may have any value that a file can hold.
        value: what was written. One that holds `${...}` can be judged only where all keys are known, and stays.
        place: where it was written.

    Raises:
        ConfigError: there is no such key, or the value is not legal.
    """
    if key not in KEYS:
        if key in SECTIONS:
            raise ConfigError(f"{key}={masked(key, value)!r}", place, "a mapping")
        if not key.startswith(f"{PARAMS}."):
            raise ConfigError(f"the key {key!r}", place, "what `nbaccel config show --all` lists", _meant(key))
        return _plain(key, value, place)
    described = KEYS[key]
    if has_interpolation(value) or (value is None and not described.is_nullable):
        return value
    try:
        found: Any = RunConfig.model_validate(nested({key: value}))
    except ValidationError:
        meant = nearest(value, described.choices)
        raise ConfigError(f"{key}={masked(key, value)!r}", place, described.possible, meant) from None
    for part in key.split("."):
        found = getattr(found, part)
    return _plain(key, found, place) if isinstance(found, dict) else found


def _meant(key: str) -> str | None:
    by_short_name = {known.short_name: name for name, known in KEYS.items()}
    short = nearest(key.rpartition(".")[2], by_short_name, cutoff=0.8)
    longer = next((name for name in KEYS if name.startswith(key)), None)
    alike = nearest(key, (*KEYS, *SECTIONS), cutoff=0.8)
    return alike or longer or (by_short_name[short] if short else nearest(key, KEYS))


def _plain(key: str, value: object, place: str) -> Any:
    """A parameter, if a file can hold it."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(f"{key}.{name}", inner, place) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item, place) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    possible = "a number, a text, true, false, null, or a list or mapping of such"
    raise ConfigError(f"{key}={masked(key, value)!r} (a {type(value).__name__})", place, possible)


def refuse_secret(key: str, value: object, place: str) -> None:
    """Raises ConfigError for a token, key or password: files are shared and kept, the environment is not."""
    name = next((name for name, leaf in _leaves(key, value) if _is_shown_secret(name, leaf)), None)
    if name is None:
        return
    possible = f"the variable {variable_of(name)}, in the environment or the project's .env"
    raise ConfigError(f"{name}={MASK}", place, possible)


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(key, item)
    else:
        yield key, value


def _is_shown_secret(key: str, value: object) -> bool:
    """`${oc.env:HF_TOKEN}` names a secret and does not hold it."""
    if value in (None, "") or has_interpolation(value):
        return False
    return is_secret(key) or masked(key, value) != value
