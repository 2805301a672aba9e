"""`%accelerate config|why|set|unset|undo`: the configuration, seen and changed from a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from nbaccel.config import NOTEBOOK, Explanation, Table, commands, plain_value, resolve, table
from nbaccel.config.commands.asking import questionnaire
from nbaccel.config.resolve import unknown_key
from nbaccel.config.schema import KEYS
from nbaccel.errors import CallError, ConfigError, nearest


class Place(NamedTuple):
    """Where a command looks."""

    config_file: str | None
    profile: str | None


def shown() -> Table:
    """What is set, with value, layer and place."""
    resolved = resolve()
    return table(resolved, resolved.given())


def set_for_notebook(key: str, value: str) -> Explanation:
    """Set a key for this notebook; `undo` takes it back.

    Raises:
        ConfigError: the key or the value is not valid; nothing has changed then.
    """
    name = _full_name(key)
    NOTEBOOK.update({name: value if name in KEYS else plain_value(value)}, f"%accelerate set {key}")
    try:
        return resolve().explain(name)
    except ConfigError:
        NOTEBOOK.undo()
        raise


def unset_for_notebook(*keys: str) -> list[str]:
    """Forget keys that were set for this notebook, or all of them. Returns their names.

    Raises:
        CallError: one of them is not set.
    """
    names = [_full_name(key) for key in keys] or list(NOTEBOOK.layer())
    for name in names:
        if name not in NOTEBOOK.layer():
            held = ", ".join(NOTEBOOK.layer()) or "nothing"
            raise CallError(f"{name!r} is not set for this notebook. Set is: {held}.")
    NOTEBOOK.unset(*names)
    return names


def undo() -> None:
    """Take the last `set` or `unset` back. Raises CallError if there is none."""
    if not NOTEBOOK.undo():
        raise CallError("nothing has been set for this notebook.")


def can_show_form(shell: Any) -> bool:
    """Whether this is a notebook's kernel and ipywidgets is there; no front end says whether it shows widgets."""
    return getattr(shell, "kernel", None) is not None and find_spec("ipywidgets") is not None


def form(config_file: str | None, profile: str | None) -> Any:
    """The form for the configuration; where it is only printed, the table that `config show` shows.

    Args:
        config_file: the file that `--config-file` names.
        profile: the profile that `--profile` names.
    """
    from nbaccel_widgets import ConfigForm  # ipywidgets takes a while, and may be missing

    return ConfigForm(config_file=config_file, call={} if profile is None else {"profile": profile})


def configure(words: Sequence[str], config_file: str | None, profile: str | None) -> Any:
    """`%accelerate config WORD ...`: what `nbaccel config WORD ...` does in a terminal.

    Args:
        words: the command and what it is about; empty: what is set.
        config_file: the file that `--config-file` names.
        profile: the profile that `--profile` names.

    Returns:
        Something that shows itself, or None.

    Raises:
        CallError: there is no such command, or it needs other words. ConfigError: as the command.
    """
    if not words:
        return commands.show(config_file=config_file, profile=profile)
    command, *rest = words
    if command not in COMMANDS:
        meant = nearest(command, COMMANDS)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise CallError(f"there is no `config {command}`.{hint} Possible: {', '.join(COMMANDS)}.")
    return COMMANDS[command](rest, Place(config_file, profile))


def _show(rest: list[str], place: Place) -> Table:
    every = rest == ["all"]
    return commands.show(() if every else rest, every=every, config_file=place.config_file, profile=place.profile)


def _why(rest: list[str], place: Place) -> Explanation:
    (key,) = _exactly(1, "why KEY", rest)
    return commands.why(key, config_file=place.config_file, profile=place.profile)


def _set(rest: list[str], place: Place) -> commands.Changed:
    key, value = _exactly(2, "set KEY VALUE", rest)
    return commands.set_value(key, value, layer=_layer(place), config_file=place.config_file)


def _unset(rest: list[str], place: Place) -> commands.Changed:
    (key,) = _exactly(1, "unset KEY", rest)
    return commands.unset_value(key, layer=_layer(place), config_file=place.config_file)


def _validate(rest: list[str], place: Place) -> commands.Report:
    return commands.validate(rest[0] if rest else place.config_file, profile=place.profile)


def _diff(rest: list[str], place: Place) -> commands.Differences:
    if len(rest) not in (1, 2):
        raise CallError("one or two files are needed: %accelerate config diff FILE [FILE].")
    return commands.differences(*rest)


def _default(rest: list[str], place: Place) -> commands.Changed:
    _exactly(0, "default", rest)
    return commands.write_default(config_file=place.config_file)


def _update(rest: list[str], place: Place) -> commands.Changed:
    _exactly(0, "update", rest)
    return commands.update_file(place.config_file)


def _ask(rest: list[str], place: Place) -> None:
    _exactly(0, "ask", rest)
    questionnaire(input, print, lambda lines: print(*lines, sep="\n"), place.config_file)


COMMANDS: Mapping[str, Callable[[list[str], Place], Any]] = {
    "show": _show,
    "why": _why,
    "set": _set,
    "unset": _unset,
    "validate": _validate,
    "diff": _diff,
    "default": _default,
    "update": _update,
    "ask": _ask,
}
"""The commands of `%accelerate config`."""


def _exactly(count: int, usage: str, rest: list[str]) -> list[str]:
    if len(rest) != count:
        raise CallError(f"write %accelerate config {usage}.")
    return rest


def _layer(place: Place) -> str:
    return "file" if place.config_file else "project"


def _full_name(key: str) -> str:
    if key in KEYS or key.startswith("params."):
        return key
    same = [name for name in KEYS if name.rpartition(".")[2] == key]
    if len(same) == 1:
        return same[0]
    raise unknown_key(key, "asked for")
