"""Where configuration files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nbaccel.errors import ConfigError, nearest

FOLDER = ".accelerate"
NAME = "default_config.yaml"
DOTENV = ".env"


def project_folder(start: Path) -> Path | None:
    """The nearest folder, from `start` upward, that holds a project file, a profile or both."""
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            return folder
    return None


def project_file(start: Path) -> Path:
    """The project file, which need not exist; a new one would be in `start`."""
    folder = (project_folder(start) or start) / FOLDER
    return next((folder / name for name in _NAMES if (folder / name).exists()), folder / NAME)


_NAMES = (NAME, "default_config.yml", "default_config.json")


def profiles(start: Path) -> Mapping[str, Path]:
    """The profiles of the project by name."""
    folder = project_folder(start)
    if folder is None:
        return {}
    files = sorted((folder / FOLDER).iterdir())
    suffixes = (".yaml", ".yml", ".json")
    return {file.stem: file for file in files if file.suffix in suffixes and file.name not in _NAMES}


def profile_file(start: Path, name: str, place: str) -> Path:
    """The file of a profile. Raises ConfigError for one that is not there; lists those that are."""
    known = profiles(start)
    if name in known:
        return known[name]
    where = (project_folder(start) or start) / FOLDER
    possible = ", ".join(known) or f"none: there is no file {shown(where)}/<profile>.yaml"
    raise ConfigError(f"profile={name!r}", f"from {place}", possible, nearest(name, known))


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's own file, which Accelerate shares; it need not exist."""
    home = Path(environ.get("HOME") or Path.home())
    if environ.get("HF_HOME"):
        cache = Path(environ["HF_HOME"])
    elif environ.get("XDG_CACHE_HOME"):
        cache = Path(environ["XDG_CACHE_HOME"]) / "huggingface"
    else:
        cache = home / ".cache" / "huggingface"
    folder = Path(os.path.expanduser(cache)) / "accelerate"
    return next((folder / name for name in _NAMES if (folder / name).exists()), folder / NAME)


def shown(path: Path) -> str:
    """A path as people would call it: below the working folder, below home, or whole."""
    whole = os.path.abspath(path)
    here, home = os.getcwd(), os.path.expanduser("~")
    if whole.startswith(here + os.sep):
        return os.path.relpath(whole, here)
    return "~" + whole[len(home) :] if whole.startswith(home + os.sep) else whole
