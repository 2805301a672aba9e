"""The layers that a value can come from; each setting knows its layer and its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbaccel.config.schema import KEYS, SECTIONS, SHORTHANDS
from nbaccel.errors import ConfigError, nearest

LAYERS = ("constructor", "call", "notebook", "environment", "file", "project", "user", "default")
"""All layers, highest first."""

PARAMS = "params"
"""The section that is the user's own: any name, at any depth."""


@dataclass(frozen=True)
class Setting:
    """One value that one layer holds for a key.

    Attributes:
        value: what was written, not yet checked.
        layer: name of the layer (`call`, `environment`, `default`, ...).
        place: where exactly: an argument, a flag, a variable, a line of a file.
    """

    value: object
    layer: str
    place: str


Layer = Mapping[str, Setting]
"""Settings by key, nested keys with dots between. A key that is absent was not given; None is a value."""


def default_layer() -> Layer:
    """The lowest layer: what the schema says."""
    return _DEFAULTS


_DEFAULTS = {key.name: Setting(key.default, "default", "the default") for key in KEYS.values() if key.name != PARAMS}


def call_layer(
    values: Mapping[str, object], place: Callable[[str], str] = "the argument {}=".format, layer: str = "call"
) -> Layer:
    """Settings given by the caller.

    Args:
        values: what was given, by key; a key that was not given must be absent. A section may be a mapping.
        place: makes the words for a key's place ("the flag --seed").
        layer: `call` for a launch, `constructor` for `Accelerator(...)`.
    """
    return {
        name: Setting(value, layer, place(given))
        for given, outer in values.items()
        for name, value in flattened(given, outer)
    }


def flattened(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A value of a section as values of its keys, by their dotted paths."""
    is_section = name in SECTIONS or name == PARAMS or name.startswith(f"{PARAMS}.")
    if is_section and isinstance(value, Mapping):
        if not value and name.startswith(f"{PARAMS}."):
            yield name, {}
        for inner, inner_value in value.items():
            yield from flattened(f"{name}.{inner}", inner_value)
    elif name == "deepspeed_config" and isinstance(value, str):
        yield "deepspeed_config.deepspeed_config_file", value
    elif not (is_section and value is None):
        yield name, value


def environment_layer(environ: Mapping[str, str], origin: Callable[[str], str] = "the variable {}".format) -> Layer:
    """Settings from the variables that the schema names; an empty variable counts as not given.

    Args:
        environ: the variables.
        origin: makes the words for a variable's place.

    Raises:
        ConfigError: a variable looks like one of the schema's, misspelt.
    """
    found = {
        name: Setting(environ[name], "environment", origin(name))
        for name in environ.keys() & _BY_VARIABLE.keys()
        if environ[name] != ""
    }
    layer = {_BY_VARIABLE[name]: setting for name, setting in found.items()}
    for variable, key, value in SHORTHANDS.values():
        if environ.get(variable, "").strip().lower() in _TRUE:
            layer.setdefault(key, Setting(value, "environment", origin(variable)))
    for name in environ:
        _refuse_misspelt(name, origin)
    return layer


_TRUE = ("1", "true", "yes", "on", "y", "t")
_BY_VARIABLE = {key.env: key.name for key in KEYS.values() if key.name != PARAMS}
_OURS = re.compile(r"(ACCELERATE|NBACCEL|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_")
_OTHERS = frozenset(
    f"ACCELERATE_{name}"
    for name in (
        "TORCH_DEVICE", "LOG_LEVEL", "ENABLE_RICH", "BYPASS_DEVICE_MAP", "ALLOW_CP_STANDALONE", "INIT_INCLUDE_BUFFERS",
        "USE_PARALLELISM_CONFIG", "USE_SAGEMAKER", "SAGEMAKER_DISTRIBUTED_TYPE", "DEBUG_RDV_FILE", "CONFIG_DS_FIELDS",
        "IN_TPU_POD", "CONFIG_FILE", "KERNELS_USE_LOCAL", "FP8_OVERRIDE_FPROP", "FP8_OVERRIDE_DGRAD",
        "FP8_OVERRIDE_WGRAD", "USE_XPU",
    )
) | {"NBACCEL_WORKER", "NBACCEL_PLATFORM", "NBACCEL_LAUNCHED", "NBACCEL_LOG_LEVEL"}  # fmt: skip
"""Variables of these prefixes that are no keys: other parts of nbaccel or Accelerate itself read them."""


def _refuse_misspelt(name: str, origin: Callable[[str], str]) -> None:
    if not _OURS.match(name) or name in _BY_VARIABLE or name in _OTHERS or name in _SHORT_VARIABLES:
        return
    meant = nearest(name, _BY_VARIABLE, cutoff=0.93)
    if meant is not None:
        raise ConfigError(name, origin(name), "the variables that `nbaccel config show --all` lists", meant)


_SHORT_VARIABLES = {variable for variable, _, _ in SHORTHANDS.values() if variable}

_OF_THE_SYSTEM = frozenset(
    (
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "PWD", "OLDPWD", "HOSTNAME", "HOST", "DISPLAY",
        "TMPDIR", "TMP", "TEMP", "EDITOR", "PAGER", "MAIL", "NAME", "COLUMNS", "LINES", "LANGUAGE", "TZ", "VERSION",
        "DEBUG",
    )
)  # fmt: skip
"""Variables that mean something else on most machines; they never set a parameter."""


def params_layer(names: Iterable[str], environ: Mapping[str, str]) -> Layer:
    """The user's own variables: BATCH_SIZE for the parameter `batch_size`, TRAINER_LR for `trainer.lr`.

    Args:
        names: parameters that somebody has named, with dots between, without `params.`.
        environ: the variables.
    """
    layer = {}
    for name in names:
        variable = name.upper().replace(".", "_")
        if environ.get(variable, "") != "" and variable not in _OF_THE_SYSTEM and variable not in _BY_VARIABLE:
            place = f"the variable {variable}"
            layer[f"{PARAMS}.{name}"] = Setting(plain_value(environ[variable]), "environment", place)
    return layer


def plain_value(text: str) -> Any:
    """What a text means where no type says it, as on the right of `epochs=5`: a number, true, null, a list, a text."""
    import yaml

    if "${" in text or text != text.strip():
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # 1e-4 is a number to everybody but YAML 1.1
        try:
            return float(value) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value
        except ValueError:
            return value
    return value if isinstance(value, int | float | bool | list | dict | None) else text
