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


@dataclass(frozen=True)
class FileLayer:
    """What one file says.

    Attributes:
        path: the file.
        settings: its settings by key, those of included files below its own.
        unknown: the errors for keys that nobody knows; a newer version may.
        notes: what is old in it.
        stamps: the files that were read, each with its time and size, to see whether they have changed.
    """

    path: Path
    settings: Mapping[str, Setting] = field(default_factory=dict)
    unknown: tuple[ConfigError, ...] = ()
    notes: tuple[Note, ...] = ()
    stamps: tuple[tuple[Path, tuple[int, int, int]], ...] = ()


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
    included = [
        _fresh(other, layer, (*above, _resolved(path)))
        for other in _included(path, document.pop(INCLUDE, None), (*above, _resolved(path)))
    ]
    today, notes = modernized(document)
    settings: dict[str, Setting] = {}
    for below in included:
        settings.update(below.settings)
    unknown = [problem for below in included for problem in below.unknown]
    for name, written in today.items():
        for key, inner in _flattened(name, written):
            if key in KEYS or key.startswith(f"{PARAMS}."):
                settings[key] = Setting(inner.plain(), layer, inner.place)
            else:
                unknown.append(_unknown(key, inner.key_place or inner.place))
    return FileLayer(
        path,
        settings,
        tuple(unknown),
        (*(note for below in included for note in below.notes), *notes),
        ((path, stamp), *(stamp for below in included for stamp in below.stamps)),
    )


def _of_snapshot(document: Mapping[str, Written]) -> dict[str, Written]:
    """A run's snapshot is read as the configuration that it holds."""
    held = document.get("config")
    return dict(held.value) if held is not None and isinstance(held.value, Mapping) else {}


def _included(path: Path, written: Written | None, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files that a file names under `include:`, relative to its own folder; later ones win."""
    if written is None or written.value is None:
        return
    names = written.value if isinstance(written.value, list) else [written.value]
    for name in names:
        if not isinstance(name, str):
            raise ConfigFileError(written.place, f"include: {name!r} is no path", "Name a file, or a list of files.")
        other = path.parent / os.path.expanduser(name)
        if _resolved(other) in above:
            raise ConfigFileError(written.place, f"{name} includes this file in its turn", "Break the circle.")
        if not other.is_file():
            raise ConfigFileError(
                written.place, f"include: there is no file {shown(other)}", "Paths are relative to this file's folder."
            )
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
    meant = nearest(inner, names, cutoff=0.7) or _elsewhere(inner)
    where = f"the keys of {section}" if section else "the schema's keys (`nbaccel config show --all` lists them)"
    return ConfigError(f"the key {key!r}", f"in {place}", where, meant)


def _elsewhere(inner: str) -> str | None:
    """A key that was written in the wrong section."""
    return next((known.name for known in KEYS.values() if known.short_name == inner), None)
