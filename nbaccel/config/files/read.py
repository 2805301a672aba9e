"""A configuration file, with those that it includes, as a layer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbaccel.config.files.find import shown
from nbaccel.config.files.legacy import Note, modernized
from nbaccel.config.files.parse import Written, parse, read_text
from nbaccel.config.layers import PARAMS, Setting
from nbaccel.config.schema import KEYS, SECTIONS
from nbaccel.errors import ConfigError, ConfigFileError, nearest

INCLUDE = "include"
SNAPSHOT = "nbaccel_snapshot"
_MOST_LEVELS = 20
_MOST_FILES = 100


@dataclass(frozen=True)
class FileLayer:
    """What one file says.

    Attributes:
        path: the file.
        settings: its settings by key, those of included files below its own.
        unknown: the errors for keys that nobody knows; a newer version may.
        notes: what is old in it.
        stamps: the files that were read, each with its time and size, to see whether they have changed.
        included: the settings of included files alone.
    """

    path: Path
    settings: Mapping[str, Setting] = field(default_factory=dict)
    unknown: tuple[ConfigError, ...] = ()
    notes: tuple[Note, ...] = ()
    stamps: tuple[tuple[Path, tuple[int, int, int]], ...] = ()
    included: Mapping[str, Setting] = field(default_factory=dict)


_read: dict[tuple[Path, str, str], FileLayer] = {}


def read_layer(path: Path, layer: str) -> FileLayer:
    """Read a file, or take what was read of it if it has not changed since.

    Args:
        path: the file.
        layer: name of the layer that it is.

    Raises:
        ConfigFileError: it cannot be read.
    """
    called = shown(path)
    known = _read.get((path, layer, called))
    if known is None or any(_stamp(file) != stamp for file, stamp in known.stamps):
        known = _read[path, layer, called] = _fresh(path, layer, ())
    return known


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return (0, 0, 0)
    return (state.st_mtime_ns, state.st_size, state.st_ino)


def _fresh(path: Path, layer: str, above: tuple[Path, ...]) -> FileLayer:
    stamp = _stamp(path)
    document = parse(read_text(path, shown(path)), shown(path))
    if SNAPSHOT in document:
        document = _of_snapshot(document)
    inside = (*above, _resolved(path))
    included = [_fresh(other, layer, inside) for other in _included(path, document.pop(INCLUDE, None), inside)]
    today, notes = modernized(document)
    own, unknown = _settings(today, layer)
    settings: dict[str, Setting] = {}
    for below in included:
        settings.update(below.settings)
    stamps = ((path, stamp), *(stamp for below in included for stamp in below.stamps))
    if len(stamps) > _MOST_FILES:
        raise ConfigFileError(shown(path), f"it includes more than {_MOST_FILES} files", "Merge some of them.")
    return FileLayer(
        path,
        settings | own,
        (*(problem for below in included for problem in below.unknown), *unknown),
        (*(note for below in included for note in below.notes), *notes),
        stamps,
        settings,
    )


def _settings(today: list[tuple[str, Written]], layer: str) -> tuple[dict[str, Setting], list[ConfigError]]:
    """The settings of a file's own keys, and the errors for those that nobody knows."""
    settings: dict[str, Setting] = {}
    unknown = []
    for name, written in today:
        for key, inner in _flattened(name, written):
            if key not in KEYS and not key.startswith(f"{PARAMS}."):
                unknown.append(_unknown(key, inner.key_place or inner.place))
                continue
            setting = Setting(inner.plain(), layer, inner.place)
            held = settings.setdefault(key, setting)
            if held is not setting and held.value != setting.value:
                problem = f"the key {key!r} is here twice, under two names, first in {held.place}"
                raise ConfigFileError(setting.place, problem, "Keep one.")
    _refuse_overlap(settings)
    return settings, unknown


def _refuse_overlap(settings: Mapping[str, Setting]) -> None:
    """A parameter `a.b` beside a plain `a`, which a name with a dot allows."""
    for key, setting in settings.items():
        parts = key.split(".")
        outer = next((name for end in range(2, len(parts)) if (name := ".".join(parts[:end])) in settings), None)
        if outer is not None:
            raise ConfigFileError(setting.place, f"{key!r} lies inside {outer!r}, which has a value", "Keep one.")


def _of_snapshot(document: Mapping[str, Written]) -> dict[str, Written]:
    """A run's snapshot is read as the configuration that it holds."""
    held = document.get("config")
    return dict(held.value) if held is not None and isinstance(held.value, Mapping) else {}


def _included(path: Path, written: Written | None, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files that a file names under `include:`, relative to its own folder; later ones win."""
    if written is None or written.value is None:
        return
    names = written.value if isinstance(written.value, list) else [written.value]
    if len(above) > _MOST_LEVELS:
        raise ConfigFileError(
            written.place, f"more than {_MOST_LEVELS} files include each other", "Merge some of them."
        )
    for name in names:
        if not isinstance(name, str) or "\0" in name:
            raise ConfigFileError(written.place, f"include: {name!r} is no path", "Name a file, or a list of files.")
        other = path.parent / os.path.expanduser(name)
        if not os.path.isfile(other):
            raise ConfigFileError(
                written.place, f"include: there is no file {shown(other)}", "Paths are relative to this file's folder."
            )
        if _resolved(other) in above:
            raise ConfigFileError(written.place, f"{name} includes this file in its turn", "Break the circle.")
        yield other


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _flattened(name: str, written: Written) -> Iterator[tuple[str, Written]]:
    is_section = name in SECTIONS or name == PARAMS or name.startswith(f"{PARAMS}.")
    if is_section and isinstance(written.value, Mapping):
        if not written.value and name.startswith(f"{PARAMS}."):
            yield name, written
        for inner, value in written.value.items():
            yield from _flattened(f"{name}.{inner}", value)
    elif name == "deepspeed_config" and isinstance(written.value, str):
        yield "deepspeed_config.deepspeed_config_file", written
    elif is_section and not name.startswith(f"{PARAMS}."):
        if written.value is not None:
            raise ConfigError(f"{name}={written.value!r}", f"in {written.place}", "a mapping")
    else:
        yield name, written


def _unknown(key: str, place: str) -> ConfigError:
    section, _, inner = key.rpartition(".")
    names: dict[str, Any] = {known.short_name: known for known in KEYS.values() if known.section == section}
    if not section:
        names |= dict.fromkeys((*SECTIONS, INCLUDE))
    meant = _elsewhere(inner) or nearest(inner, names, cutoff=0.7)
    where = f"the keys of {section}" if section else "the schema's keys (`nbaccel config show --all` lists them)"
    return ConfigError(f"the key {key!r}", f"in {place}", where, meant)


def _elsewhere(inner: str) -> str | None:
    """A key that was written in the wrong section."""
    return next((known.name for known in KEYS.values() if known.short_name == inner), None)
