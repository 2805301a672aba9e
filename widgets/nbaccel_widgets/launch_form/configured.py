"""What the configuration has for a function's parameters: what a launch fills in where nobody writes anything. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic.errors import PydanticUserError

from nbaccel.config import Resolved
from nbaccel.config.layers import PARAMS
from nbaccel.config.params import filled, names_of
from nbaccel.errors import ConfigError
from nbaccel_widgets.launch_form.parameters import Field, Parameter, leaves, with_default


def configured(
    function: Callable[..., Any], parameters: Sequence[Parameter], base: Resolved | None
) -> tuple[Parameter, ...]:
    """The parameters, with the values of the configuration as their defaults.

    Args:
        function: the function.
        parameters: its own.
        base: the configuration; None if it contradicts itself.
    """
    if base is None or not base.config.params:
        return tuple(parameters)
    return tuple(_configured(function, one, base) for one in parameters)


def _configured(function: Callable[..., Any], parameter: Parameter, base: Resolved) -> Parameter:
    others = dict.fromkeys(names_of(function) - {parameter.name})
    try:
        found = filled(function, (), others, base)
    except (ConfigError, PydanticUserError):  # the launch will say it, with its place
        return parameter
    return with_default(parameter, found[parameter.name]) if parameter.name in found else parameter


def places_of(own: Sequence[Parameter], now: Sequence[Parameter], base: Resolved | None) -> dict[str, str]:
    """Where the configuration's value of each field was written, by the field's name; empty if it has none.

    Args:
        own: the function's own parameters.
        now: the same with the values of the configuration.
        base: the configuration.
    """
    pairs = zip(leaves(own), leaves(now), strict=True)
    return {field.name: "" if field is before else _place_of(field, base) for before, field in pairs}


def _place_of(field: Field, base: Resolved | None) -> str:
    key = _key_of(field, base)
    return base.origin(key).place if base is not None and key else ""


def _key_of(field: Field, base: Resolved | None) -> str:
    held = [] if base is None else [key for key in base.chain if key.startswith(f"{PARAMS}.")]
    own = f"{PARAMS}.{field.name}"
    below = [key for key in held if key == own or key.startswith(f"{own}.")]
    takes_all = field.path == (PARAMS,)
    return next(iter(below or (held if takes_all else ())), "")


def as_written(field: Field, base: Resolved) -> Any:
    """What the configuration holds for a field, before it became what the annotation wants."""
    value: Any = base.config.params
    for name in field.path:
        value = value[name] if isinstance(value, Mapping) and name in value else value
    return value
