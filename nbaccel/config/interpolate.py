"""`${...}` in values, by OmegaConf: other keys, parameters, variables of the environment, what a launch knows."""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nbaccel.config.layers import PARAMS, Setting
from nbaccel.config.schema import KEYS, RunConfig
from nbaccel.config.secrets import masked
from nbaccel.errors import ConfigError, MissingExtraError

_LITERAL = frozenset({"commands", "tpu_env", "additional_args"})
"""Keys whose `${...}` belongs to a shell elsewhere."""
_FREE_PORT, _RUN_DIR = "free_port", "run_dir"


def has_interpolation(value: object) -> bool:
    """Whether a value holds a `${`, at any depth."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(has_interpolation, value.values()))
    return isinstance(value, list | tuple) and any(map(has_interpolation, value))


def open_settings(winners: Mapping[str, Setting]) -> dict[str, Setting]:
    """The winning settings that hold interpolations."""
    return {name: held for name, held in winners.items() if name not in _LITERAL and has_interpolation(held.value)}


def port_for(open_ones: Mapping[str, Setting]) -> int | None:
    """A free port of this machine if one of these settings names `${free_port}`, else None."""
    return _free_port() if _mentions(open_ones, _FREE_PORT) else None


def interpolated(
    open_ones: Mapping[str, Setting], winners: Mapping[str, Setting], run_dir: str, free_port: int | None
) -> dict[str, Any]:
    """The values of the keys that hold interpolations, filled in.

    Args:
        open_ones: their settings.
        winners: the winning setting of each key.
        run_dir: what `${run_dir}` stands for where the configuration does not say.
        free_port: what `${free_port}` stands for.

    Raises:
        MissingExtraError: OmegaConf is not installed.
        ConfigError: a name in it does not exist, or it leads back to itself.
    """
    if not open_ones:
        return {}
    first, setting = next(iter(open_ones.items()))
    try:
        importlib.import_module("omegaconf")
    except ImportError:
        purpose = f"{masked(first, setting.value)!r} in {setting.place}"
        raise MissingExtraError("omegaconf", purpose, "pip install 'nbaccel[hydra]'") from None
    root = _tree(winners, open_ones)
    root[_FREE_PORT] = free_port
    if root.get(_RUN_DIR) is None:
        root[_RUN_DIR] = run_dir
    return {name: _filled(name, setting, root) for name, setting in open_ones.items()}


def _tree(winners: Mapping[str, Setting], open_ones: Mapping[str, Setting]) -> dict[str, Any]:
    """What interpolations can name: keys by their dotted names, parameters also by their own.

    Of a key and a parameter with the same name, the parameter is meant where nobody has given the key.
    """
    mentioned = repr([setting.value for setting in open_ones.values()])
    tree = nested(
        {
            name: setting.value if name in open_ones else _typed(name, setting)
            for name, setting in winners.items()
            if setting.layer != "default" or name.rpartition(".")[2] in mentioned
        }
    )
    given = {name.partition(".")[0] for name, setting in winners.items() if setting.layer != "default"}
    return {**tree, **{name: value for name, value in tree.get(PARAMS, {}).items() if name not in given}}


def _typed(name: str, setting: Setting) -> object:
    """A variable's or flag's text as the value that the key takes, as a file would hold it."""
    if name not in KEYS or not isinstance(setting.value, str):
        return setting.value
    try:
        value: Any = RunConfig.model_validate(nested({name: setting.value}))
    except ValidationError:
        return setting.value  # the one who checks all keys says so, with its place
    for part in name.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def _filled(name: str, setting: Setting, root: Mapping[str, Any]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value: Any = OmegaConf.create(dict(root), flags={"allow_objects": True})
        for part in name.split("."):
            value = value[part]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        written = f"{name}={masked(name, setting.value)!r}"
        raise ConfigError(written, f"in {setting.place}: {reason}", "the names of other keys and parameters") from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as a tree."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *outer, inner = name.split(".")
        branch = tree
        for part in outer:
            branch = branch.setdefault(part, {})
        branch[inner] = value
    return tree


def _mentions(settings: Mapping[str, Setting], word: str) -> bool:
    return any(re.search(rf"\$\{{\s*{word}\s*\}}", repr(setting.value)) for setting in settings.values())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
