"""What the Tab key offers on a line of `%accelerate` or `%%accelerate`. Pure, but for the names of files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from nbaccel.config import KEYS, SECTIONS
from nbaccel.notebook.configuring import COMMANDS as CONFIG_COMMANDS
from nbaccel.notebook.flags import parser
from nbaccel.notebook.guide import COMMANDS

_LINE = re.compile(r"^\s*(?:[\w.]+\s*=\s*)?(%{1,2})accelerate\s(.*)$", re.DOTALL)
_AUTOMATIC = re.compile(r"^\s*()accelerate\s(.*)$", re.DOTALL)
_DELIMITERS = " \t\n`!@#$^&*()=+[{]}\\|;:'\",<>?"
"""Where IPython cuts the text that it completes."""
_TRUTH = ("true", "false")


@dataclass(frozen=True)
class Known:
    """What is there just now.

    Attributes:
        names: names of the notebook.
        functions: those among them that can be called.
        workers: names that live in the session's workers.
        ranks: ranks of the session; without one: none.
        folder: the working folder.
    """

    names: Sequence[str] = ()
    functions: Sequence[str] = ()
    workers: Sequence[str] = ()
    ranks: Sequence[int] = ()
    folder: str = "."


def complete(before: str, known: Callable[[], Known]) -> list[str] | None:
    """What can stand at the cursor; each begins with what IPython takes to be written already.

    Args:
        before: the line up to the cursor.
        known: finds out what is there; asked only when it matters.

    Returns:
        The possible words, None on a line that is not of these magics.
    """
    found = _LINE.match(before) or _AUTOMATIC.match(before)
    if found is None:
        return None
    words = found[2].split()
    text = words.pop() if words and not found[2][-1:].isspace() else ""
    offered = _offered(text, words, known, of_cell=found[1] == "%%")
    cut = max((text.rfind(one) for one in _DELIMITERS), default=-1) + 1
    return [word[cut:] for word in offered if word.lower().startswith(text.lower())]


def _offered(text: str, words: Sequence[str], known: Callable[[], Known], *, of_cell: bool) -> Iterable[str]:
    """Whole words, of which the last one is being written."""
    name, equals, _ = text.partition("=")
    if equals:
        return [f"{name}={value}" for value in _values_named(name, known)]
    before = words[-1] if words else ""
    if _takes_value(before):
        return _several(text, _values_named(before, known)) if before in _LISTS else _values_named(before, known, text)
    command = "" if of_cell else next((word for word in words if word in COMMANDS), "")
    if text.startswith("-") or (not text and (of_cell or _takes_flags_alone(command))):
        return _flags_of(command)
    if before in ("-h", "--help"):
        return [*SECTIONS, *KEYS]
    if command:
        return _COMPLETERS.get(command, _nothing)(text, words[words.index(command) + 1 :], known)
    if of_cell or words:
        return [f"{key}=" for key in KEYS] if text else ()
    return COMMANDS


def _flags_of(command: str) -> list[str]:
    """All flags; first those of a command alone where it takes no others."""
    own = [*COMMANDS[command].flags, "--help"] if command else []
    return own if command and not COMMANDS[command].takes_settings else [*own, *_flags()]


def _takes_flags_alone(command: str) -> bool:
    return command in COMMANDS and command not in _COMPLETERS


@cache
def _flags() -> Mapping[str, str]:
    """The key or the purpose of each flag, by the flag."""
    return {option: action.dest for action in parser()._actions for option in action.option_strings}


@cache
def _valued() -> frozenset[str]:
    """Flags that take a value."""
    return frozenset(option for action in parser()._actions if action.nargs != 0 for option in action.option_strings)


_EXPORT = ("--cells", "--notebook")
_LISTS = frozenset({"--ranks", "-o", "--outputs", "--gpu-ids"})


def _dashed(flag: str) -> str:
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _takes_value(word: str) -> bool:
    return _dashed(word) in _valued() or word in _EXPORT


def _several(text: str, values: Iterable[str]) -> list[str]:
    """Values of a list, each behind what is written of it already: `0,1` behind `0,`."""
    done = text[: max(text.rfind(","), text.rfind(":")) + 1]
    return [f"{done}{value}" for value in values]


def _values_named(flag: str, known: Callable[[], Known], text: str = "") -> Iterable[str]:
    """Values of a flag or key."""
    flag = _dashed(flag)
    name = _flags().get(flag, flag)
    if name in ("config_file", "--notebook"):
        return _files(text, known().folder, (".yaml", ".yml", ".json") if name == "config_file" else (".ipynb",))
    if name == "ranks":
        return [str(rank) for rank in known().ranks]
    if name == "outputs":
        return [*known().workers, *known().names]
    if name == "--cells":
        return known().functions
    return _values_of(name, known, text)


def _values_of(key: str, known: Callable[[], Known], text: str = "") -> Iterable[str]:
    if key == "profile":
        return _profiles(known().folder)
    if key == "gpu_ids":
        return ("all",)
    if key not in KEYS:
        same = [name for name in KEYS if name.rpartition(".")[2] == key]
        if len(same) != 1:
            return ()
        key = same[0]
    if KEYS[key].is_switch:
        return _TRUTH
    if KEYS[key].choices:
        return KEYS[key].choices
    return _files(text, known().folder) if key.endswith(("_dir", "_file", "_path")) else ()


def _files(text: str, folder: str, endings: tuple[str, ...] = ()) -> list[str]:
    """Files and folders that can follow; a folder ends with a slash."""
    head, _, tail = text.rpartition("/")
    start = os.path.expanduser(f"{head}/") if head or text.startswith("/") else folder
    try:
        entries = sorted(os.scandir(os.path.join(folder, start)), key=lambda entry: entry.name)
    except OSError:
        return []
    before = text[: len(text) - len(tail)]
    return [
        f"{before}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(tail)
        and (tail or not entry.name.startswith("."))
        and " " not in entry.name
        and (entry.is_dir() or not endings or entry.name.endswith(endings))
    ]


def _profiles(folder: str) -> list[str]:
    names = _files(".accelerate/", folder, (".yaml",))
    return [name[len(".accelerate/") : -len(".yaml")] for name in names if name.endswith(".yaml")]


def _keys(text: str) -> list[str]:
    """Dotted keys; a word that begins none of them may begin a key of a section."""
    full = [name for name in KEYS if name.startswith(text)]
    return full or [name.rpartition(".")[2] for name in KEYS]


_Completer = Callable[[str, Sequence[str], Callable[[], Known]], Iterable[str]]


def _nothing(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    return ()


def _for_set(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    return _values_of(words[0], known, text) if len(words) == 1 else _keys(text) if not words else ()


def _for_key(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    return _keys(text) if not words else ()


def _for_keys(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    return [name for name in _keys(text) if name not in words]


def _for_config(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    if not words:
        return CONFIG_COMMANDS
    return _CONFIG.get(words[0], _nothing)(text, words[1:], known)


def _for_files(text: str, words: Sequence[str], known: Callable[[], Known]) -> Iterable[str]:
    return _files(text, known().folder, (".yaml", ".yml", ".json"))


def _one_of(find: Callable[[Known], Iterable[Any]], *, once: bool) -> _Completer:
    """Completes with what is there; a second word only if there may be several."""
    return lambda text, words, known: () if once and words else [str(one) for one in find(known())]


_CONFIG: Mapping[str, _Completer] = {
    "show": _for_keys,
    "why": _for_key,
    "set": _for_set,
    "unset": _for_key,
    "validate": _for_files,
    "diff": _for_files,
}

_COMPLETERS: Mapping[str, _Completer] = {
    "set": _for_set,
    "why": _for_key,
    "unset": _for_keys,
    "config": _for_config,
    "push": _one_of(lambda known: known.names, once=False),
    "pull": _one_of(lambda known: known.workers, once=False),
    "debug": _one_of(lambda known: known.ranks, once=True),
    "form": _one_of(lambda known: known.functions, once=True),
    "export": lambda text, words, known: () if words else _files(text, known().folder, (".py",)),
}
