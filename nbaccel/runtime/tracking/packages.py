"""Optional packages."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from nbaccel.errors import MissingExtraError


def is_installed(names: Iterable[str]) -> bool:
    """Whether one of these packages is there; imports nothing."""
    return any(name in sys.modules or importlib.util.find_spec(name) is not None for name in names)


def need(module: str, package: str, tracker: str) -> Any:
    """Import a module. Raises MissingExtraError with the line that installs its package."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, f"log_with={tracker!r}", f"pip install {package}") from error
