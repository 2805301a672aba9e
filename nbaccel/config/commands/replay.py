"""A run's snapshot, read so that the run can be made again."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nbaccel import __version__
from nbaccel.config.check import checked
from nbaccel.config.commands.look import File, in_force
from nbaccel.config.files.find import shown
from nbaccel.config.files.parse import parse, read_text
from nbaccel.config.files.read import SNAPSHOT, read_layer
from nbaccel.config.resolve import Resolved
from nbaccel.config.secrets import MASK, masked, variable_of
from nbaccel.errors import ConfigError, ConfigFileError

_OF_THIS_RUN = frozenset({"run_dir", "profile", "start_method"})
"""Keys that may differ and leave the run the same; the profile's values are in the snapshot."""

_OWN_VERSIONS = {"python": platform.python_version(), "nbaccel": __version__}


@dataclass(frozen=True)
class Snapshot:
    """What a run has left of itself.

    Attributes:
        path: the file.
        command: the script and its arguments; empty for a run of a notebook.
        versions: versions of packages then, by name.
        secrets: keys whose values it does not hold.
    """

    path: Path
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def launch_words(self, script: tuple[str, ...] = (), *, dry_run: bool = False) -> list[str]:
        """The words behind `nbaccel launch`.

        Args:
            script: a script and its arguments, in place of the snapshot's own.
            dry_run: only show what would be run.

        Raises:
            ConfigError: there is no script: the run was made in a notebook.
        """
        words = [*(script or self.command)]
        if not words:
            possible = "nbaccel config replay FILE SCRIPT [ARGUMENTS], or config=FILE in a notebook"
            raise ConfigError("a snapshot of a notebook's run, without a script", shown(self.path), possible)
        return ["--config-file", os.fspath(self.path), *(["--dry-run"] if dry_run else []), *words]

    def notes(self) -> Iterator[str]:
        """What is not as it was then: packages, and keys that other layers set otherwise.

        Raises:
            ConfigError: the configuration is not valid.
        """
        for name, then in self.versions.items():
            now = _version(name)
            if now != then:
                yield f"{name} was {then} then and is {now} now"
        resolved = in_force(self.path)
        given = resolved.given()
        for key in (*given, *(secret for secret in self.secrets if secret not in given)):
            value = resolved.value(key) if key in given else None
            if MASK in str(value) or (key in self.secrets and value is None):
                yield f"{key} was a secret, which snapshots do not hold: set the variable {variable_of(key)}"
            elif key not in self.secrets:
                yield from self._difference(key, resolved)

    def _difference(self, key: str, resolved: Resolved) -> Iterator[str]:
        winner = resolved.origin(key)
        if winner.layer == "file" or key in _OF_THIS_RUN:
            return
        then = read_layer(self.path, "file").settings.get(key)
        was = resolved.chain[key][-1].value if then is None else checked(key, then.value, f"from {then.place}")
        if resolved.value(key) != was:
            words = f"{masked(key, was)!r} then and is {masked(key, resolved.value(key))!r} now"
            yield f"{key} was {words}, from {winner.place} ({winner.layer})"


def read_snapshot(file: File) -> Snapshot:
    """Read the snapshot of a run.

    Raises:
        ConfigFileError: the file cannot be read, or is none.
    """
    path = Path(os.path.expanduser(file))
    called = shown(path)
    document = {name: written.plain() for name, written in parse(read_text(path, called), called).items()}
    if SNAPSHOT not in document:
        raise ConfigFileError(called, "this is no snapshot of a run", "Use `nbaccel launch --config-file` for others.")
    command, versions = document.get("command"), document.get("versions")
    return Snapshot(
        path,
        _words(command),
        {name: str(then) for name, then in _mapping(versions).items()},
        _words(document.get("secrets")),
    )


def _words(command: Any) -> tuple[str, ...]:
    return tuple(map(str, command)) if isinstance(command, list) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _version(name: str) -> str:
    if name in _OWN_VERSIONS:
        return _OWN_VERSIONS[name]
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
