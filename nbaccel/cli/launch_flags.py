"""The flags of `nbaccel launch`, made from the schema: read out of a line's words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NoReturn

from nbaccel.config import KEYS, SHORTHANDS, Key, Layer, call_layer, plain_value
from nbaccel.config.params import overrides
from nbaccel.config.schema.key import IN_NOTEBOOKS
from nbaccel.errors import ConfigError, nearest

Kind = Literal["switch", "value", "list", "mapping", "word", "own switch", "own value"]

_REPEATED = ("tpu_vm", "tpu_env", "commands")
"""Keys whose flag may be given several times."""

_TRUE = ("true", "yes", "on", "1", "y", "t")
_FALSE = ("false", "no", "off", "0", "n", "f")


_FLAG = "the flag "
"""Begins the words for a flag's place."""


@dataclass(frozen=True)
class Option:
    """A flag of a command itself, which no key of the configuration stands for.

    Attributes:
        name: how the command asks for it.
        flags: its spellings, the long one first.
        text: what it does.
        metavar: stands for its value in the help; empty for a switch.
    """

    name: str
    flags: tuple[str, ...]
    text: str
    metavar: str = ""


COMMON_OPTIONS = (
    Option("config_file", ("--config-file",), "Read this file of YAML or JSON, too.", "FILE"),
    Option(
        "use_parallelism_config",
        ("--use-parallelism-config",),
        "Has no effect: a mesh is made where one of its sizes is above 1.",
    ),
    Option("help", ("--help", "-h"), "Show this text."),
)
"""Flags of all commands that read a launch's flags."""

LAUNCH_OPTIONS = (
    Option("module", ("--module", "-m"), "SCRIPT is the name of a module, as for python -m."),
    Option("no_python", ("--no-python",), "SCRIPT is a program, run as it is."),
    Option("dry_run", ("--dry-run",), "Show the command line and the variables that would be set, and end."),
    Option("quiet", ("--quiet", "-q"), "Do not show notes on old files."),
    *COMMON_OPTIONS,
)
"""Flags of `nbaccel launch` itself."""


@dataclass(frozen=True)
class Line:
    """What a line of flags says.

    Attributes:
        settings: the configuration that it gives, as a layer.
        options: values of the command's own flags; switches have the value `true`.
        words: what stands behind the flags: a script and its arguments.
    """

    settings: Layer = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def has(self, option: str) -> bool:
        """Whether a switch of the command was given."""
        return option in self.options


@dataclass(frozen=True)
class _Flag:
    """What a flag sets.

    Attributes:
        name: a key, or one of the command's own flags.
        kind: what may follow it.
        value: what the flag alone says.
    """

    name: str
    kind: Kind
    value: str = "true"


def keys_with_flags() -> list[Key]:
    """The keys that steer `nbaccel launch`: all but those that only a notebook's launchers honour."""
    return [key for key in KEYS.values() if not _is_for_notebooks(key)]


def _is_for_notebooks(key: Key) -> bool:
    return bool(key.honoured_by) and set(key.honoured_by) <= set(IN_NOTEBOOKS)


def read_line(words: Sequence[str], program: str, options: tuple[Option, ...]) -> Line:
    """Read flags and overrides up to the first other word.

    Args:
        words: the command line behind the command's name.
        program: how the command is called in errors.
        options: its own flags.

    Raises:
        ConfigError: a flag is unknown, has no value, or contradicts another one.
    """
    return _Reader(words, program, options).line()


@cache
def _table(options: tuple[Option, ...]) -> Mapping[str, _Flag]:
    """All flags by their spelling, with dashes."""
    own: list[tuple[str, _Flag]] = []
    for option in options:
        kind: Kind = "own value" if option.metavar else "own switch"
        own += [(flag, _Flag(option.name, kind)) for flag in option.flags]
    taken = {flag for flag, _ in own}
    of_keys = [pair for key in keys_with_flags() for pair in _of_key(key) if pair[0] not in taken]
    short = [(flag, _Flag(name, "word", value)) for flag, (_, name, value) in SHORTHANDS.items()]
    return dict([*of_keys, *short, *own])


def _of_key(key: Key) -> list[tuple[str, _Flag]]:
    kind: Kind = "switch" if key.is_switch else "value"
    if key.name in _REPEATED:
        kind = "list"
    elif key.possible.startswith("a mapping"):
        kind = "mapping"
    made = [(flag, _Flag(key.name, kind)) for flag in key.flags]
    if key.is_switch:
        made += [(f"--no-{flag[2:]}", _Flag(key.name, kind, "false")) for flag in key.flags]
    return made


class _Reader:
    def __init__(self, words: Sequence[str], program: str, options: tuple[Option, ...]) -> None:
        self._rest, self._program = list(words), program
        self._flags = _table(options)
        self._values: dict[str, object] = {}
        self._places: dict[str, str] = {}
        self._options: dict[str, str] = {}

    def line(self) -> Line:
        while self._rest:
            word = self._rest[0]
            if word == "--":
                self._rest.pop(0)
                break
            if word.startswith("-") and word != "-":
                self._take_flag(self._rest.pop(0))
            elif not self._take_override(word):
                break
        self._refuse_devices_that_contradict()
        layer = call_layer(self._values, self._places.__getitem__)
        return Line(layer, self._options, tuple(self._rest))

    def _take_flag(self, word: str) -> None:
        spelling, value = _split(word)
        flag = self._flags.get(spelling)
        if flag is None:
            self._refuse(word.partition("=")[0], spelling)
        if flag.kind == "own switch":
            if value is not None:
                raise self._wrong(f"{spelling}={value}", f"{spelling} alone")
            self._options[flag.name] = flag.value
        elif flag.kind == "own value":
            self._options[flag.name] = self._value_of(flag, spelling, value)
        elif flag.kind == "switch":
            self._give(flag.name, self._switched(flag, spelling, value), spelling)
        elif flag.kind == "word":
            self._give_word(flag, spelling, value)
        else:
            self._give(flag.name, self._typed(flag, self._value_of(flag, spelling, value)), spelling)

    def _value_of(self, flag: _Flag, spelling: str, value: str | None) -> str:
        if value is not None:
            return value
        if not self._rest:
            possible = KEYS[flag.name].possible if flag.name in KEYS else "a value behind it"
            raise self._wrong(f"{spelling} without a value", possible)
        return self._rest.pop(0)

    def _switched(self, flag: _Flag, spelling: str, value: str | None) -> str:
        """The value of a switch: behind `=`, as the next word, or what the flag alone says."""
        if value is None and self._rest and self._is_value_of(flag, self._rest[0]):
            value = self._rest.pop(0)
        if value is not None and flag.value == "false":
            raise self._wrong(f"{spelling}={value}", f"{spelling} alone")
        return value or flag.value

    @staticmethod
    def _is_value_of(flag: _Flag, word: str) -> bool:
        """A script is called neither `true` nor as one of FSDP's strategies."""
        if flag.value == "false" or os.path.exists(word):
            return False
        strategies = KEYS["fsdp_config.fsdp_sharding_strategy"].choices
        is_strategy = flag.name == "fsdp_config.fsdp_reshard_after_forward" and word.upper() in strategies
        return word.lower() in (*_TRUE, *_FALSE) or is_strategy

    def _typed(self, flag: _Flag, text: str) -> object:
        if flag.kind == "mapping":
            return plain_value(text)
        if flag.kind == "list":
            before = self._values.get(flag.name)
            return [*(before if isinstance(before, list) else []), text]
        return text

    def _give(self, name: str, value: object, spelling: str) -> None:
        self._values[name] = value
        self._places[name] = _FLAG + spelling

    def _give_word(self, flag: _Flag, spelling: str, value: str | None) -> None:
        if value is not None:
            raise self._wrong(f"{spelling}={value}", f"{spelling} alone, or --distributed-type")
        before = self._places.get(flag.name)
        if before is not None and str(self._values[flag.name]).upper() != flag.value:
            raise self._wrong(f"{spelling} beside {before.removeprefix(_FLAG)}", "one of the two")
        self._give(flag.name, flag.value, spelling)

    def _take_override(self, word: str) -> bool:
        """`trainer.epochs=5` before the script; a file of such a name is the script."""
        if os.path.exists(word):
            return False
        found, others = overrides([word])
        if others:
            return False
        name = word.partition("=")[0]
        self._rest.pop(0)
        self._values.update(found)
        self._places.update(dict.fromkeys(found, f"the override {name}="))
        return True

    def _refuse_devices_that_contradict(self) -> None:
        """`--cpu --multi-gpu`: neither word is stronger than the other."""
        kind = self._places.get("distributed_type", "")
        on_cpu = str(self._values.get("use_cpu", "false")).lower() in _TRUE
        if on_cpu and kind in (f"{_FLAG}--multi-gpu", f"{_FLAG}--tpu"):
            cpu = self._places["use_cpu"].removeprefix(_FLAG)
            raise self._wrong(f"{kind.removeprefix(_FLAG)} beside {cpu}", "one of the two")

    def _refuse(self, word: str, spelling: str) -> NoReturn:
        for key in KEYS.values():
            if _is_for_notebooks(key) and spelling in (*key.flags, f"--no-{key.flags[0][2:]}"):
                possible = f"in notebooks only: {key.name} steers the workers that they start"
                raise self._wrong(f"the flag {word}", possible)
        meant = nearest(spelling, self._flags)
        raise self._wrong(f"the flag {word}", f"what `{self._program} --help` lists", meant)

    def _wrong(self, written: str, possible: str, meant: str | None = None) -> ConfigError:
        return ConfigError(written, f"given to {self._program}", possible, meant)


def _split(word: str) -> tuple[str, str | None]:
    """A flag's spelling with dashes, and the value that the word holds too: `--a_b=1` and `-n2` do."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag.replace("_", "-"), value if equals else None
    return word[:2], word[2:].removeprefix("=") or None
