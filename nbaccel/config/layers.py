"""The layers that a value can come from; each setting knows its layer and its place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

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

    Raises:
        ConfigError: a section is no mapping.
    """
    found = {}
    for given, outer in values.items():
        for name, value in flattened(given, outer):
            if name in SECTIONS or name == PARAMS:
                raise ConfigError(f"{name}={value!r}", f"from {place(given)}", "a mapping")
            found[name] = Setting(value, layer, place(given))
    return found


def flattened(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A value of a section as values of its keys, by their dotted paths."""
    is_section = name in SECTIONS or name == PARAMS or name.startswith(f"{PARAMS}.")
    if name == PARAMS and isinstance(value, str):  # from a flag or variable
        value = plain_value(value)
    if is_section and isinstance(value, Mapping):
        if not value and name.startswith(f"{PARAMS}."):
            yield name, {}
        for inner, inner_value in value.items():
            yield from flattened(f"{name}.{inner}", inner_value)
    elif name == "deepspeed_config" and isinstance(value, str | os.PathLike):
        yield "deepspeed_config.deepspeed_config_file", os.fspath(value)
    elif value is not None or not is_section or name.startswith(f"{PARAMS}."):
        yield name, value


def environment_layer(environ: Mapping[str, str], origin: Callable[[str], str] = "the variable {}".format) -> Layer:
    """Settings from the variables that the schema names; an empty variable counts as not given.

    Args:
        environ: the variables.
        origin: makes the words for a variable's place.

    Raises:
        ConfigError: a variable looks like one of the schema's, misspelt, or two contradict each other.
    """
    layer = {
        _BY_VARIABLE[name]: Setting(environ[name], "environment", origin(name))
        for name in environ.keys() & _BY_VARIABLE.keys()
        if environ[name].strip()
    }
    for variable, key, value in SHORTHANDS.values():
        if _is_on(variable, environ, origin):
            _join(layer, key, Setting(value, "environment", origin(variable)))
    overrides = _overrides(environ, origin)
    if overrides is not None:
        _join(layer, _OVERRIDDEN, overrides)
    params = KEYS[PARAMS].env
    if environ.get(params, "").strip():
        layer |= call_layer({PARAMS: environ[params]}, lambda _: origin(params), "environment")
    for name in environ:
        _refuse_misspelt(name, origin)
    return layer


def _is_on(variable: str, environ: Mapping[str, str], origin: Callable[[str], str]) -> bool:
    """What a variable that is a switch says; not given means off. Raises ConfigError for another word."""
    word = environ.get(variable, "").strip().lower()
    if word not in (*_TRUE, *_FALSE, ""):
        raise ConfigError(f"{variable}={environ[variable]!r}", f"from {origin(variable)}", "true, false")
    return word in _TRUE


def _join(layer: dict[str, Setting], key: str, setting: Setting) -> None:
    """Add a setting, unless another variable says otherwise: neither of the two is above the other."""
    held = layer.setdefault(key, setting)
    if _word(held.value) != _word(setting.value):
        possible = f"one of the two: {held.place} says {held.value!r}"
        raise ConfigError(f"{key}={setting.value!r}", f"from {setting.place}", possible)


def _word(value: object) -> str:
    return re.sub(r"[\s()\[\]'\"]", "", str(value)).lower()


def _overrides(environ: Mapping[str, str], origin: Callable[[str], str]) -> Setting | None:
    """The one key that three of Accelerate's variables set; one that is not given is false."""
    given = [name for name in _OVERRIDES if environ.get(name, "").strip()]
    if not given:
        return None
    value = tuple(_is_on(name, environ, origin) for name in _OVERRIDES)
    return Setting(value, "environment", " and ".join(map(origin, given)))


_OVERRIDES = ("ACCELERATE_FP8_OVERRIDE_FPROP", "ACCELERATE_FP8_OVERRIDE_DGRAD", "ACCELERATE_FP8_OVERRIDE_WGRAD")
_OVERRIDDEN = "fp8_config.override_linear_precision"
_TRUE, _FALSE = ("1", "true", "yes", "on", "y", "t"), ("0", "false", "no", "off", "n", "f")
_BY_VARIABLE = {key.env: key.name for key in KEYS.values() if key.name != PARAMS}
_OURS = re.compile(r"(ACCELERATE|NBACCEL|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_")
_OTHERS = frozenset(
    f"ACCELERATE_{name}"
    for name in (
        "TORCH_DEVICE", "LOG_LEVEL", "ENABLE_RICH", "BYPASS_DEVICE_MAP", "ALLOW_CP_STANDALONE", "INIT_INCLUDE_BUFFERS",
        "USE_PARALLELISM_CONFIG", "USE_SAGEMAKER", "SAGEMAKER_DISTRIBUTED_TYPE", "DEBUG_RDV_FILE", "CONFIG_DS_FIELDS",
        "IN_TPU_POD", "CONFIG_FILE", "KERNELS_USE_LOCAL", "USE_XPU",
    )
) | frozenset(_OVERRIDES) | {"NBACCEL_WORKER", "NBACCEL_PLATFORM", "NBACCEL_LAUNCHED", "NBACCEL_LOG_LEVEL"}  # fmt: skip
"""Variables of these prefixes that are no keys: other parts of nbaccel or Accelerate itself read them."""


def _refuse_misspelt(name: str, origin: Callable[[str], str]) -> None:
    if not _OURS.match(name) or name in _BY_VARIABLE or name in _OTHERS or name in _SHORT_VARIABLES:
        return
    meant = nearest(name, (*_BY_VARIABLE, *_SHORT_VARIABLES, *_OTHERS), cutoff=0.93)
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


def params_layer(
    names: Iterable[str], environ: Mapping[str, str], origin: Callable[[str], str] = "the variable {}".format
) -> Layer:
    """The user's own variables: BATCH_SIZE for the parameter `batch_size`, TRAINER_LR for `trainer.lr`.

    Args:
        names: parameters that somebody has named, with dots between, without `params.`.
        environ: the variables.
        origin: makes the words for a variable's place.
    """
    layer = {}
    for name in names:
        variable = name.upper().replace(".", "_")
        if environ.get(variable, "") != "" and variable not in _OF_THE_SYSTEM and variable not in _BY_VARIABLE:
            layer[f"{PARAMS}.{name}"] = Setting(plain_value(environ[variable]), "environment", origin(variable))
    return layer


def plain_value(text: str) -> Any:
    """What a text means where no type says it, as on the right of `epochs=5`: a number, true, null, a list, a text."""
    if "${" in text or text != text.strip() or text in ("-", "?"):  # an empty list's and an empty key's marks
        return text
    try:
        value = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # tags that do not fit, above all
        return text
    return value if isinstance(value, str | int | float | bool | list | dict | None) else text


_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}", re.ASCII)


class _PlainLoader(yaml.SafeLoader):
    """Reads values that cannot contain themselves, and as people mean them: 1e-4 is a number; 12:30, a day, a text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias", None)
        return super().compose_node(parent, index)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag: str = super().resolve(kind, value, implicit)
        if tag == f"{_TAG}str" and implicit[0] and _EXPONENT.fullmatch(value):
            return f"{_TAG}float"
        is_text = tag == f"{_TAG}timestamp" or (tag in (f"{_TAG}int", f"{_TAG}float") and ":" in value)
        return f"{_TAG}str" if is_text else tag
