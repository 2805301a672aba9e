"""What a run was started with, as a file: every value, where it came from, and the software and devices around it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nbaccel import __version__
from nbaccel.config.files.read import SNAPSHOT
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import PARAMS
from nbaccel.config.resolve import Resolved, stays_known
from nbaccel.config.schema import KEYS
from nbaccel.config.secrets import is_secret, without_secrets
from nbaccel.errors import ConfigError

FILE = "nbaccel_config.yaml"
"""Name of a snapshot beside a run or a checkpoint."""

_PACKAGES = ("torch", "numpy", "ipython", "transformers", "datasets", "accelerate", "safetensors", "torch_xla")
_GIT_PATIENCE_S = 2.0


def snapshot(resolved: Resolved, devices: Sequence[str] = (), command: Sequence[str] = ()) -> str:
    """A run's configuration as YAML, which `nbaccel config replay` and `--config-file` read.

    Args:
        resolved: the configuration.
        devices: the devices that exist, in words.
        command: the script and its arguments; empty for a run of a notebook.

    Returns:
        The text of the file. Keys that hold secrets are null: whoever runs it again gives them anew. Those that lower
        layers give by themselves are absent.
    """
    known = resolved.given()
    given = {
        name: _plain(without_secrets(name, resolved.value(name))) for name in known if not stays_known(resolved, name)
    }
    rest = {
        name: _plain(key.default)
        for name, key in KEYS.items()
        if name not in known and name != PARAMS and key.needs is None
    }
    document = {
        SNAPSHOT: 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command),
        "config": nested(given),
        "secrets": [name for name in known if is_secret(name) and resolved.value(name) is not None],
        "origins": {name: f"{resolved.origin(name).place} ({resolved.origin(name).layer})" for name in known},
        "defaults": nested(rest),
        "versions": {"python": sys.version.split()[0], "nbaccel": __version__, **_versions()},
        "git": _git(Path.cwd()),
        "devices": list(devices),
    }
    return _HEAD + _as_yaml(document)


_HEAD = "# What this run was started with. Again: nbaccel config replay FILE\n"


def leaves_snapshot(resolved: Resolved) -> bool:
    """Whether a run has a folder to leave its snapshot in."""
    return resolved.config.run_dir is not None or resolved.config.project_dir is not None


def write_snapshot(resolved: Resolved, devices: Sequence[str] = (), command: Sequence[str] = ()) -> Path | None:
    """Write a snapshot into the run's folder, if the configuration names one or a project folder.

    Returns:
        The file, None where nothing is to be written.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    if not leaves_snapshot(resolved):
        return None
    file = Path(resolved.run_dir).expanduser() / FILE
    text = snapshot(resolved, devices, command)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        key = "project_dir" if resolved.config.run_dir is None else "run_dir"
        written = f"{key}={resolved.value(key)!r}"
        place = f"from {resolved.origin(key).place}: {error.strerror or error}"
        raise ConfigError(written, place, "a folder that can be written to") from None
    return file


def _as_yaml(document: dict[str, Any]) -> str:
    import yaml

    text = io.StringIO()
    yaml.safe_dump(document, text, sort_keys=False, allow_unicode=True, width=120)
    return text.getvalue()


def _plain(value: object) -> object:
    """What YAML can hold; an object of the user's own is its text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git(folder: Path) -> dict[str, object]:
    """The commit that the working folder is at, and whether something has changed since; empty outside of git."""

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_PATIENCE_S,
            check=True,
        )
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}
