"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata
import operator
from collections.abc import Callable
from typing import Any

import torch
from packaging.version import Version, parse

from nbaccel.errors import CallError

STR_OPERATION_TO_FUNC: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
}


def compare_versions(library_or_version: str | Version, operation: str, requirement_version: str) -> bool:
    """Compare a version, or that of an installed package, with another.

    Args:
        library_or_version: a package's name, or a version that was parsed.
        operation: one of > >= == != <= <.
        requirement_version: what to compare with.

    Raises:
        CallError: another operation.
        PackageNotFoundError: the package is not installed.
    """
    if operation not in STR_OPERATION_TO_FUNC:
        raise CallError(f"compare_versions({operation!r}): possible are {' '.join(STR_OPERATION_TO_FUNC)}.")
    is_name = isinstance(library_or_version, str)
    version = parse(importlib.metadata.version(str(library_or_version))) if is_name else library_or_version
    return STR_OPERATION_TO_FUNC[operation](version, parse(requirement_version))


def is_torch_version(operation: str, version: str) -> bool:
    """Compare torch's version (without what stands behind a `+`) with another. Raises CallError as above."""
    return compare_versions(parse(parse(torch.__version__).base_version), operation, version)
