"""`${...}` in values, by OmegaConf: other keys, parameters, variables of the environment, what a launch knows."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

from nbaccel.config.layers import PARAMS, Setting
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


def interpolated(winners: Mapping[str, Setting], run_dir: str) -> dict[str, Any]:
    """The values of the keys that hold interpolations, filled in.

    Args:
        winners: the winning setting of each key.
        run_dir: what `${run_dir}` stands for where the configuration does not say.

    Raises:
        MissingExtraError: OmegaConf is not installed.
        ConfigError: a name in it does not exist, or it leads back to itself.
    """
    open_ones = {
        name: setting for name, setting in winners.items() if name not in _LITERAL and has_interpolation(setting.value)
    }
    if not open_ones:
        return {}
    first = next(iter(open_ones.values()))
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ImportError:
        purpose = f"{first.value!r} in {first.place}"
        raise MissingExtraError("omegaconf", purpose, "pip install 'nbaccel[hydra]'") from None
    mentioned = repr([setting.value for setting in open_ones.values()])
    tree = nested(
        {
            name: setting.value
            for name, setting in winners.items()
            if setting.layer != "default" or name.rpartition(".")[2] in mentioned
        }
    )
    root = {**tree.get(PARAMS, {}), **tree}
    root[_FREE_PORT] = _free_port() if _mentions(open_ones, _FREE_PORT) else None
    if root.get(_RUN_DIR) is None:
        root[_RUN_DIR] = run_dir
    whole = OmegaConf.create(root)

    def filled(name: str, setting: Setting) -> Any:
        try:
            chosen = OmegaConf.select(whole, name, throw_on_missing=True)
            return OmegaConf.to_container(chosen, resolve=True) if OmegaConf.is_config(chosen) else chosen
        except (OmegaConfBaseException, RecursionError, ValueError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ConfigError(
                f"{name}={setting.value!r}", f"in {setting.place}: {reason}", "the names of other keys and parameters"
            ) from None

    return {name: filled(name, setting) for name, setting in open_ones.items()}


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
