"""The layers that a value can come from; each setting knows its layer and its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nbaccel.config.schema import KEYS


@dataclass(frozen=True)
class Setting:
    """One value that one layer holds for a key.

    Attributes:
        value: what was written, not yet checked.
        layer: name of the layer (`call`, `environment`, `default`, ...).
        place: where exactly: an argument, a flag, a variable.
    """

    value: object
    layer: str
    place: str


Layer = Mapping[str, Setting]
"""Settings by key. A key that is absent was not given; None is a value."""


def default_layer() -> Layer:
    """The lowest layer: what the schema says."""
    return {key.name: Setting(key.default, "default", "the default") for key in KEYS.values()}


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Settings from the variables that the schema names; an empty variable counts as not given."""
    return {
        key.name: Setting(environ[key.env], "environment", f"the variable {key.env}")
        for key in KEYS.values()
        if environ.get(key.env, "") != ""
    }


def call_layer(
    values: Mapping[str, object], place: Callable[[str], str] = "the argument {}=".format, layer: str = "call"
) -> Layer:
    """Settings given by the caller.

    Args:
        values: what was given, by key; a key that was not given must be absent.
        place: makes the words for a key's place ("the flag --seed").
        layer: `call` for a launch, `constructor` for `Accelerator(...)`.
    """
    return {name: Setting(value, layer, place(name)) for name, value in values.items()}
