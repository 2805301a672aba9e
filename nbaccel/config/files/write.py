"""Configuration files are changed: what is said there by today's names, comments and order kept, all or nothing."""

from __future__ import annotations

import enum
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from nbaccel.config.check import checked, refuse_secret
from nbaccel.config.files.edit import Edited, edited
from nbaccel.config.files.find import shown
from nbaccel.config.files.legacy import modernized
from nbaccel.config.files.parse import Written, parse, read_text
from nbaccel.config.files.read import SNAPSHOT
from nbaccel.config.interpolate import has_interpolation
from nbaccel.config.layers import PARAMS, Setting, flattened
from nbaccel.config.schema import KEYS, SECTIONS
from nbaccel.config.secrets import masked
from nbaccel.errors import ConfigError, ConfigFileError

HEADER = "# Configuration of nbaccel; `nbaccel config show` says what is in force, and where it was set.\n"


class Unset(enum.Enum):
    """What is not there; None is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""In place of a value: remove the key."""

Change = tuple[str, str]
"""The text of a file before and after."""


def changed_text(path: Path, changes: Mapping[str, object]) -> Change:
    """What a file would be with some keys set or removed; nothing is written.

    Args:
        path: the file; a new one begins with a comment, unless its name ends in `.json`.
        changes: values by key (dotted names; a section may be a mapping), UNSET to remove a key or a whole section.

    Returns:
        Its text before (empty for a new file) and after.

    Raises:
        ConfigError: a key is unknown, a value is not legal or a secret.
        ConfigFileError: the file cannot be read, is a run's snapshot, or says the same thing in several places.
    """
    called = shown(path)
    wanted = _wanted(changes, f"for {called}")
    before = read_text(path, called) if os.path.lexists(path) else ""
    _refuse_snapshot(before, called)
    text = edited(before, path.suffix == ".json")
    expected = _said(_entries(before, called))
    for key, value in wanted.items():
        text = _without(text, key, called) if value is UNSET else _with(text, key, value, called)
        expected = {name: held for name, held in expected.items() if not _gives_way(name, key, value)}
        expected |= {} if value is UNSET else {key: value}
    after = _with_header(before, text.text, path)
    _refuse_misread(wanted, after, called)
    _refuse_others(expected, after, called)
    return before, after


def modernized_text(path: Path) -> Change:
    """What a file would be in today's words; nothing is written. Raises ConfigError as `changed_text`."""
    called = shown(path)
    before = read_text(path, called)
    _refuse_snapshot(before, called)
    entries = _entries(before, called)
    expected = {key: _word(key, value) for key, value in _said(entries).items()}
    text = edited(before, path.suffix == ".json")
    for entry in entries:
        if not text.has(entry.path):  # an anchor brings it in, or it has gone with another one
            continue
        if not entry.is_heard:
            text = text.without(entry.path)
        elif _is_old(entry):
            text = _with(text, entry.key, expected[entry.key], called)
    _refuse_others(expected, text.text, called)
    return before, text.text


def write_changes(path: Path, changes: Mapping[str, object]) -> Change:
    """Change a file; another process that does the same waits. Returns and raises as `changed_text`."""
    return _rewritten(path, lambda: changed_text(path, changes))


def write_modernized(path: Path) -> Change:
    """Rewrite a file in today's words. Returns and raises as `modernized_text`."""
    return _rewritten(path, lambda: modernized_text(path))


def write_text(path: Path, text: str) -> None:
    """Put a text in a file's place: all of it or, if the process is killed meanwhile, nothing.

    Args:
        path: the file, whose permissions stay; of a symbolic link, what it leads to. Folders are made.
        text: what it is to hold.

    Raises:
        ConfigFileError: it cannot be written.
    """
    with _writing(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(0, "it is read-only")
        _replace(target, text.encode())


# --- what a file says ---


def settings_of_text(path: Path, layer: str) -> dict[str, Setting]:
    """The settings of a file alone, however wrong they are. Raises ConfigFileError if it is not well formed."""
    called = shown(path)
    heard = [entry for entry in _entries(read_text(path, called), called) if entry.is_heard]
    return {entry.key: Setting(entry.written.plain(), layer, entry.written.place) for entry in heard}


@dataclass(frozen=True)
class _Entry:
    """One value of a file.

    Attributes:
        path: the names that lead to it, as they are spelt.
        key: what it is called today.
        written: the value in today's words, and its place.
        is_heard: false where another entry says the same and wins, or nobody reads it any more.
        is_gone: true in the latter case.
    """

    path: tuple[str, ...]
    key: str
    written: Written
    is_heard: bool = True
    is_gone: bool = False


@lru_cache(maxsize=16)
def _entries(text: str, called: str) -> Sequence[_Entry]:
    document = parse(text, called)
    return tuple(
        entry
        for name, written in document.items()
        for path, leaf in _leaves((name,), written)
        for entry in _named(path, leaf, document)
    )


def _leaves(path: tuple[str, ...], written: Written) -> Iterator[tuple[tuple[str, ...], Written]]:
    name = ".".join(path)
    is_own = name == PARAMS or name.startswith(f"{PARAMS}.")
    is_section = len(path) == 1 and (name in SECTIONS or name in ("tpu_config", "tp_config"))
    if not (is_own or is_section) or not isinstance(written.value, Mapping):
        if written.value is not None or not (is_section or name == PARAMS):
            yield path, written
        return
    if not written.value and is_own and name != PARAMS:
        yield path, written
    for inner, value in written.value.items():
        yield from _leaves((*path, inner), value)


def _named(path: tuple[str, ...], written: Written, document: Mapping[str, Written]) -> Iterator[_Entry]:
    """The entry at a path: asked of the reader's own translation, about this one alone."""
    name, *inner = path
    if name == PARAMS or name.startswith(f"{PARAMS}."):
        yield _Entry(path, ".".join(path), written)
        return
    around = {other: document[other] for other in ("compute_environment",) if other in document}
    alone = Written({inner[0]: written}, written.place) if inner else written
    found, _ = modernized({**around, name: alone})
    mine = [(key, today) for key, today in found if today.key_place == written.key_place]
    for key, today in mine:
        if key == "deepspeed_config" and isinstance(today.value, str):
            key = "deepspeed_config.deepspeed_config_file"
        yield _Entry(path, key, today, is_heard=not (name == "fp16" and "mixed_precision" in document))
    if not mine:
        yield _Entry(path, ".".join(path), written, is_heard=False, is_gone=True)


def _said(entries: Sequence[_Entry]) -> dict[str, Any]:
    """The values by today's keys; of two that say the same, the first."""
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.is_heard:
            found.setdefault(entry.key, entry.written.plain())
    return found


def _home(key: str) -> tuple[str, ...]:
    """Where a key stands in a file."""
    if key.startswith(f"{PARAMS}."):
        return tuple(key.split("."))
    section, dot, inner = key.partition(".")
    return (section, inner) if dot and section in SECTIONS else (key,)


def _gives_way(name: str, key: str, value: object) -> bool:
    """Whether a key's value ends when another one gets this one; a null makes room for a mapping."""
    return name == key or name.startswith(f"{key}.") or (value is not UNSET and key.startswith(f"{name}."))


def _refuse_snapshot(text: str, called: str) -> None:
    if SNAPSHOT in parse(text, called):
        raise ConfigFileError(called, "this is the record of a run", "Records do not change; copy its `config:` part.")


# --- what is wanted ---


def _wanted(changes: Mapping[str, object], place: str) -> dict[str, Any]:
    """The changes by single keys, checked, in the form in which files hold them."""
    wanted: dict[str, Any] = {}
    for given, outer in changes.items():
        if outer is UNSET:
            wanted[given] = UNSET
            continue
        for key, value in flattened(given, outer):
            typed = checked(key, value, place)
            refuse_secret(key, value, place)
            wanted[key] = _written_form(key, typed, value)
    return wanted


def _written_form(key: str, typed: Any, given: object) -> Any:
    """A value as Accelerate's files hold it: several words are one text with commas, and 60 stays 60."""
    if isinstance(typed, float) and key in KEYS and str(given).strip().isdecimal():
        return int(typed)
    if not isinstance(typed, tuple):
        return typed
    words = ",".join(map(str, typed))
    if typed and not any(isinstance(item, bool) for item in typed) and checked(key, words, "") == typed:
        return words
    return list(typed)


def _is_old(entry: _Entry) -> bool:
    if entry.key not in KEYS:
        return False
    value = entry.written.plain()
    return entry.path != _home(entry.key) or _word(entry.key, value) != value


def _word(key: str, value: Any) -> Any:
    """The word of a choice, where the value is one that means it: `TPU` is `XLA`."""
    if key not in KEYS or not KEYS[key].choices or value is None or value is False or has_interpolation(value):
        return value
    try:
        return checked(key, value, "")
    except ConfigError:
        return value


# --- changes ---


def _with(text: Edited, key: str, value: object, called: str) -> Edited:
    """The text with a key set: where it stands already, under today's name, and nowhere else."""
    mine = [entry for entry in _entries(text.text, called) if entry.key == key and text.has(entry.path)]
    home = mine[0].path if mine and key not in KEYS else _home(key)  # a parameter may be spelt with dots
    if [entry.path for entry in mine] == [home] and is_same(mine[0].written.plain(), value):
        return text
    beside = [entry for entry in mine if entry.path[:-1] == home[:-1]]
    comment = text.comment((beside or mine)[0].path) if mine else ""
    kept = next((entry for entry in beside if entry.path == home), beside[0] if beside else None)
    for entry in mine:
        if entry is not kept and text.has(entry.path):
            text = text.without(entry.path)
    if kept is not None and kept.path != home:
        text = text.with_name(kept.path, home[-1])
    text = _with_room(text, home, key, called)
    return text.with_value(home, value, comment)


def _with_room(text: Edited, home: tuple[str, ...], key: str, called: str) -> Edited:
    """The text, if there can be something at that place; the path of DeepSpeed's file makes room for a section."""
    for entry in _entries(text.text, called):
        depth = len(entry.path)
        if depth >= len(home) or entry.path != home[:depth] or entry.written.value is None:
            continue
        if entry.key == "deepspeed_config.deepspeed_config_file":
            return text.without(entry.path).with_value(_home(entry.key), entry.written.plain())
        if not isinstance(entry.written.value, Mapping):
            place = f"for {called}: {'.'.join(entry.path)} is {entry.written.plain()!r} there"
            raise ConfigError(f"the key {key!r}", place, f"{'.'.join(entry.path)} unset before")
    return text


def _without(text: Edited, key: str, called: str) -> Edited:
    mine = [entry for entry in _entries(text.text, called) if entry.key == key or entry.key.startswith(f"{key}.")]
    if not mine and key not in SECTIONS:
        checked(key, None, f"for {called}")  # a key that nobody knows can be removed, but not if it is not there
    for entry in mine:
        if not text.has(entry.path):
            problem = f"{entry.key} comes from an anchor, at {entry.written.place}"
            raise ConfigFileError(called, problem, "Set it to another value, or change the anchor by hand.")
        text = text.without(entry.path)
    if key in SECTIONS and text.has((key,)):
        text = text.without((key,))  # it holds nothing that counts
    return text


def is_same(one: object, other: object) -> bool:
    """Whether two values say the same: 5 and 5.0 do, 1 and true do not, at any depth; not-a-number is itself."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return repr(one) == repr(other) or (one == other and isinstance(one, bool) is isinstance(other, bool))


def _with_header(before: str, after: str, path: Path) -> str:
    is_new = not before.strip() and after.strip() and path.suffix != ".json"
    return HEADER + after if is_new else after


def _refuse_misread(wanted: Mapping[str, Any], after: str, called: str) -> None:
    """A value that is not read as it was meant: JSON has no infinity."""
    said = _said(_entries(after, called))
    for key, value in wanted.items():
        if value is not UNSET and key in said and not is_same(said[key], value):
            raise ConfigError(f"{key}={masked(key, value)!r}", f"for {called}", "what this kind of file can hold")


def _refuse_others(expected: Mapping[str, Any], after: str, called: str) -> None:
    """A change that changes other keys, too, is none; a value that two keys share by an anchor would be one."""
    said = _said(_entries(after, called))
    names = {**expected, **said}
    other = next((name for name in names if not is_same(said.get(name, UNSET), expected.get(name, UNSET))), None)
    if other is not None:
        problem = f"this would change {other}, too; the two may share a value by an anchor"
        raise ConfigFileError(called, problem, "Change the file by hand.")


# --- files ---


def _rewritten(path: Path, make: Callable[[], Change]) -> Change:
    with _alone(path):
        before, after = make()
        if after != before:
            write_text(path, after)
    return before, after


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One at a time, so that no change is lost; where folders cannot be locked, the last one wins."""
    with _writing(path):
        folder = Path(os.path.realpath(path)).parent
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):
            import fcntl  # not on every system

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigFileError(shown(path), f"it cannot be written: {reason}", "Check who may write there.") from None


def _replace(target: Path, content: bytes) -> None:
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.replace(fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """So that the new name is on the disk, too, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
