"""Configurations that come as objects: mappings, Hydra's and OmegaConf's nodes, pydantic models, dataclasses."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

from nbaccel.config.layers import Layer, call_layer
from nbaccel.errors import ConfigError


def is_structured(value: object) -> bool:
    """Whether a value is one of the objects that hold a configuration."""
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return isinstance(value, Mapping) or is_dataclass or _is_model(value) or _is_omega(value)


def as_mapping(value: object, place: str) -> dict[str, Any]:
    """The content of an object as a plain dict, nested ones too.

    Args:
        value: a mapping, an OmegaConf node, a pydantic model or settings object, or a dataclass.
        place: where it was given, for the error.

    Raises:
        ConfigError: it is something else, an interpolation cannot be filled in, or a name is no text.
    """
    plain = _plain(value, place)
    if not isinstance(plain, dict):
        possible = "a mapping, an OmegaConf DictConfig, a pydantic model or a dataclass"
        raise ConfigError(f"{value!r} (a {type(value).__name__})", place, possible)
    return plain


def _plain(value: Any, place: str) -> Any:
    if _is_omega(value):
        return _from_omega(value, place)
    if _is_model(value):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), place) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(f"the key {name!r}", place, "keys that are texts")
        return {name: _plain(inner, place) for name, inner in value.items()}
    return value


def _is_omega(value: object) -> bool:
    omegaconf = sys.modules.get("omegaconf")  # an object of its cannot exist before it is imported
    return omegaconf is not None and omegaconf.OmegaConf.is_config(value)


def _is_model(value: object) -> bool:
    from pydantic import BaseModel

    return isinstance(value, BaseModel)


def _from_omega(value: Any, place: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError("the DictConfig", f"{place}: {reason}", "values that can be filled in") from None


def split_config(config: object, place: str) -> tuple[Layer, str | os.PathLike[str] | None]:
    """What `config=` was given: a layer of settings, or the path of a file.

    Args:
        config: None, the path of a file, or an object that holds a configuration.
        place: where it was given.
    """
    if config is None:
        return {}, None
    if isinstance(config, str | os.PathLike):
        return {}, config
    return call_layer(as_mapping(config, place), lambda name: f"{place} ({name})"), None
