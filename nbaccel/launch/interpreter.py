"""How a fresh interpreter is called: with what is installed, and without the files that lie beside the notebook."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[2])
"""The folder that holds the nbaccel package."""
_SITES = {"site-packages", "dist-packages"}
"""Also those of the user and of the interpreter below a virtual environment, which no scheme of this one names."""
_INSTALLED = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


def installed_path() -> list[str]:
    """`sys.path` without local folders: a `random.py` beside the notebook must not become part of the zygote."""
    script = sys.argv[0] if sys.argv and sys.argv[0] else os.curdir
    local = {os.path.realpath(os.getcwd()), os.path.dirname(os.path.realpath(script))}
    entries = [entry for entry in sys.path if entry and isinstance(entry, str)]  # as imports, which skip all else
    kept = [entry for entry in entries if is_installed(entry) or os.path.realpath(entry) not in local]
    return kept if _HOME in kept else _with_home(kept)


def _with_home(path: list[str]) -> list[str]:
    """The same nbaccel as here, even if another copy is installed; behind everything else where there is none."""
    other = next((number for number, entry in enumerate(path) if Path(entry, "nbaccel").is_dir()), len(path))
    return [*path[:other], _HOME, *path[other:]]


def is_installed(path: str) -> bool:
    """Whether a file or folder belongs to the interpreter or an installed package."""
    return path.startswith(_INSTALLED) or not _SITES.isdisjoint(Path(path).parts)


def fresh_interpreter(module: str, arguments: Sequence[object]) -> list[str]:
    """Command line that runs a module of nbaccel, whatever the kernel's path and working folder."""
    path = json.dumps(installed_path())
    script = f"import sys; sys.path[:] = {path}; import runpy; runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-c", script, *map(str, arguments)]
