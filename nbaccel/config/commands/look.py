"""Looking at the configuration: what is in force, why, and how two of them differ."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbaccel.config.explain import Explanation, Table, table
from nbaccel.config.files.find import shown
from nbaccel.config.files.read import read_layer
from nbaccel.config.layers import PARAMS, call_layer, default_layer
from nbaccel.config.resolve import Resolved, resolve, resolve_layers
from nbaccel.config.schema import COMMON, SECTIONS
from nbaccel.config.secrets import masked

File = str | os.PathLike[str]


def in_force(config_file: File | None = None, profile: str | None = None) -> Resolved:
    """The configuration of this folder, environment and notebook.

    Args:
        config_file: a further file, as `--config-file` names it.
        profile: the overlay to use, as `--profile` names it.

    Raises:
        ConfigError: something in it is not valid.
    """
    chosen = {} if profile is None else {"profile": profile}
    return resolve(call_layer(chosen, lambda _: "the flag --profile"), config_file=config_file)


def show(
    keys: Iterable[str] = (), *, every: bool = False, config_file: File | None = None, profile: str | None = None
) -> Table:
    """Keys with their values, layers and places.

    Args:
        keys: which ones, sections too; none: those that most people need, and all that somebody has set.
        every: show all keys.
        config_file: a further file.
        profile: the overlay to use.

    Raises:
        ConfigError: there is no such key, or the configuration is not valid.
    """
    resolved = in_force(config_file, profile)
    return table(resolved, keys_to_show(resolved, keys, every=every))


def keys_to_show(resolved: Resolved, keys: Iterable[str] = (), *, every: bool = False) -> list[str]:
    """The full names of keys, as `show` takes them. Raises ConfigError for one that does not exist."""
    if every:
        return list(resolved.chain)
    named = [name for key in keys for name in _names(resolved, key)]
    return named or [*COMMON, *(key for key in resolved.given() if key not in COMMON)]


def _names(resolved: Resolved, key: str) -> Sequence[str]:
    inside = [name for name in resolved.chain if name.startswith(f"{key}.")]
    if inside and (key in SECTIONS or key == PARAMS or key.startswith(f"{PARAMS}.")):
        return inside
    return [resolved.explain(key).key]


def as_json(resolved: Resolved, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Keys with value, layer and place, as JSON can hold them; secrets are masked."""
    return {
        key: {
            "value": masked(key, resolved.value(key)),
            "layer": resolved.origin(key).layer,
            "place": resolved.origin(key).place,
        }
        for key in keys
    }


def why(key: str, *, config_file: File | None = None, profile: str | None = None) -> Explanation:
    """The value of a key, who set it where, what it shadows, and whether it has an effect.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    return in_force(config_file, profile).explain(key)


@dataclass(frozen=True)
class Differences:
    """The keys whose values differ between two configurations.

    Attributes:
        names: what the two are called.
        rows: key, the one's value, the other's; secrets are masked.
    """

    names: tuple[str, str]
    rows: tuple[tuple[str, Any, Any], ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.names[0]} and {self.names[1]} say the same"
        lines = [("key", *self.names), *((key, repr(one), repr(other)) for key, one, other in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(2)]
        return "\n".join(f"{key:<{widths[0]}}  {one:<{widths[1]}}  {other}" for key, one, other in lines)

    def __repr__(self) -> str:
        return str(self)


def differences(one: File, other: File | None = None) -> Differences:
    """Compare a file with another, or with what is in force; keys that a file does not set have their defaults.

    Raises:
        ConfigError: one of them is not valid.
    """
    first = _alone(one)
    second = in_force() if other is None else _alone(other)
    names = (shown(Path(one)), "in force" if other is None else shown(Path(other)))
    return Differences(names, tuple((key, *pair) for key, pair in first.diff(second).items()))


def _alone(file: File) -> Resolved:
    read = read_layer(Path(file), "file")
    if read.unknown:
        raise read.unknown[0]
    return resolve_layers((read.settings, default_layer()))
