"""Layers in, one checked configuration out, each value with its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nbaccel.config.layers import Layer, Setting, default_layer, environment_layer
from nbaccel.config.schema import KEYS, RunConfig
from nbaccel.errors import ConfigError, nearest


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each of its values came from.

    Attributes:
        config: the merged values, checked.
        chain: for each key the settings of all layers that hold it, the winner first.
    """

    config: RunConfig
    chain: Mapping[str, tuple[Setting, ...]]

    def origin(self, key: str) -> Setting:
        """The setting that won. Raises ConfigError for a key that does not exist."""
        return self._settings(key)[0]

    def with_setting(self, key: str, value: object, place: str) -> Any:
        """What a key's value would be, checked, if this was given too. Raises ConfigError if that is not valid."""
        chain = {**self.chain, key: (Setting(value, "call", place), *self._settings(key))}
        return getattr(_checked(chain), key)

    def explain(self, key: str) -> str:
        """Says in words which value a key has, why, and what it shadows."""
        winner, *shadowed = self._settings(key)
        lines = [f"{key} = {getattr(self.config, key)!r} from {winner.place} ({winner.layer})"]
        lines += [f"  shadows {setting.value!r} from {setting.place} ({setting.layer})" for setting in shadowed]
        return "\n".join(lines)

    def _settings(self, key: str) -> tuple[Setting, ...]:
        if key not in self.chain:
            raise unknown_key(key, "asked for")
        return self.chain[key]


def resolve(*layers: Layer, environ: Mapping[str, str] | None = None) -> Resolved:
    """Merge layers, highest first, over the environment and the defaults.

    Args:
        layers: what the caller gives, highest first (`call_layer(...)`).
        environ: the environment to read; left out: `os.environ`. Never written.

    Raises:
        ConfigError: a key is unknown or the value that won is not valid; names it, its place and what is possible.
    """
    given = os.environ if environ is None else environ
    chain: dict[str, tuple[Setting, ...]] = {}
    for layer in (*layers, environment_layer(given), default_layer()):
        for key, setting in layer.items():
            if key not in KEYS:
                raise unknown_key(key, setting.place)
            chain[key] = (*chain.get(key, ()), setting)
    return Resolved(_checked(chain), chain)


def unknown_key(key: str, place: str) -> ConfigError:
    return ConfigError(key, place, f"the keys {', '.join(KEYS)}", nearest(key, KEYS))


def _checked(chain: Mapping[str, tuple[Setting, ...]]) -> RunConfig:
    values = {key: settings[0].value for key, settings in chain.items()}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise wrong_value(key, chain[key][0]) from None


def wrong_value(key: str, setting: Setting) -> ConfigError:
    described = KEYS[key]
    meant = nearest(setting.value, described.choices)
    return ConfigError(f"{key}={setting.value!r}", f"from {setting.place}", described.possible, meant)
