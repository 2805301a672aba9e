"""What a layer says, to be copied: a `%%accelerate` line, exports, a `notebook_launcher` call, a command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nbaccel.config import KEYS, SECTIONS, Layer
from nbaccel.config.check import checked
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import PARAMS
from nbaccel.config.schema.key import IN_NOTEBOOKS, listed
from nbaccel.config.secrets import is_secret
from nbaccel.errors import ConfigError
from nbaccel_widgets.config_form.words import apart, is_lines, text_of

ARGUMENTS = {
    "main_process_ip": "master_addr",
    "main_process_port": "use_port",
    "machine_rank": "node_rank",
    "num_machines": "num_nodes",
}
"""Keys that `notebook_launcher` calls otherwise."""

Form = Callable[[Layer], str]
"""Makes what a layer says into a text."""

_NULL = "none"
"""Null as a flag, a variable or an argument says it; the argument None means that nothing is given."""


def magic_line(layer: Layer) -> str:
    """As the line of a cell."""
    return " ".join(["%%accelerate", *_flags(layer, magic_line), *_parameters(layer)])


def command_line(layer: Layer) -> str:
    """As a command for a terminal; the script's name is to be filled in."""
    told = {key: setting for key, setting in layer.items() if not is_for_notebooks(key)}
    return " ".join(["nbaccel launch", *_flags(told, command_line), *_parameters(layer), "train.py"])


def is_for_notebooks(key: str) -> bool:
    """Whether only a notebook's launchers honour a key; the command has no flag for it."""
    honoured_by = KEYS[key].honoured_by if key in KEYS else ()
    return bool(honoured_by) and set(honoured_by) <= set(IN_NOTEBOOKS)


def exports(layer: Layer) -> str:
    """As variables for a shell."""
    lines = [f"export {KEYS[key].env}={shlex.quote(_text(key, value))}" for key, value in _keys(layer, exports).items()]
    params = _params(layer)
    if params:
        lines.append(f"export {KEYS[PARAMS].env}={shlex.quote(json.dumps(params, default=str))}")
    return "\n".join(lines)


def call(layer: Layer) -> str:
    """As a call; the function's name is to be filled in."""
    said = _keys(layer, call)
    values: dict[str, Any] = {ARGUMENTS.get(key, key): checked(key, value, "") for key, value in said.items()}
    values = {key: _NULL if value is None else value for key, value in nested(values).items()}
    params = _params(layer)
    if params:
        values[PARAMS] = params
    return f"notebook_launcher({', '.join(['train', *(f'{key}={value!r}' for key, value in values.items())])})"


FORMS: Mapping[str, Form] = {
    "%%accelerate line": magic_line,
    "notebook_launcher(...) call": call,
    "environment exports": exports,
    "command": command_line,
}
"""What can be copied, by what it is called."""


def left_out(layer: Layer, form: str) -> str:
    """What a text to copy does not hold, and why; empty if it holds all."""
    secrets = [key for key in layer if is_secret(key)]
    others = [key for key in layer if is_for_notebooks(key)] if FORMS[form] is command_line else []
    told = {*_keys(layer, FORMS[form]), *others}
    nulls = [key for key in _given(layer) if key not in told]
    remarks = [f"{', '.join(secrets)} (secret)"] if secrets else []
    remarks += [f"{', '.join(nulls)} (null or empty, for which there is no word)"] if nulls else []
    remarks += [f"{', '.join(others)} (for notebooks only)"] if others else []
    return f"Left out: {', '.join(remarks)}." if remarks else ""


def _keys(layer: Layer, form: Form) -> dict[str, Any]:
    return {key: value for key, value in _given(layer).items() if _has_word(key, value, form)}


def _given(layer: Layer) -> dict[str, Any]:
    return {key: setting.value for key, setting in layer.items() if key in KEYS and not is_secret(key)}


def _has_word(key: str, value: object, form: Form) -> bool:
    """Whether a form can say a value: where all texts are legal, `none` is one, but a call's sections can hold None."""
    if form is command_line and is_lines(key):
        return bool(value)
    if value is not None or (form is call and KEYS[key].section):
        return True
    if form in (magic_line, command_line) and KEYS[key].is_switch:
        return False
    try:
        return checked(key, _NULL, "") is None
    except ConfigError:
        return False


def _params(layer: Layer) -> dict[str, Any]:
    values = {key: setting.value for key, setting in apart(layer).items() if key not in KEYS and not is_secret(key)}
    return dict(nested(values).get(PARAMS, {}))


def _text(key: str, value: object) -> str:
    return _NULL if value is None else text_of(key, value)


def _flags(layer: Layer, form: Form) -> Iterator[str]:
    for key, value in _keys(layer, form).items():
        flag = KEYS[key].flags[0]
        if KEYS[key].is_switch and str(value).lower() in ("true", "false"):
            yield flag if str(value).lower() == "true" else f"--no-{flag[2:]}"
        elif form is command_line and is_lines(key):  # one flag for each line
            yield from (f"{flag} {shlex.quote(str(line))}" for line in listed(value))
        else:
            yield f"{flag} {shlex.quote(_text(key, value))}"


def _parameters(layer: Layer) -> Iterator[str]:
    """`name=value`; the section is named where the name alone would mean a key. Names that are none are JSON."""
    others: dict[str, Any] = {}
    for key, setting in apart(layer).items():
        if key in KEYS or is_secret(key):
            continue
        name = key.removeprefix(f"{PARAMS}.")
        if all(part.isidentifier() for part in name.split(".")):
            is_taken = name in KEYS or name.partition(".")[0] in SECTIONS
            yield shlex.quote(f"{key if is_taken else name}={text_of(key, setting.value)}")
        else:
            others[name] = setting.value
    if others:
        yield f"{KEYS[PARAMS].flags[0]} {shlex.quote(json.dumps(nested(others), default=str))}"
