"""Shared fixtures: real kernels, and a watch over what tests leave behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "kernel"))

from harness import Kernel, running_kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel with nbaccel loaded, shared by the tests of a module."""
    with running_kernel() as running:
        running.ok("%load_ext nbaccel\nimport nbaccel\nfrom nbaccel import notebook_launcher")
        yield running


@pytest.fixture
def fresh_kernel() -> Iterator[Kernel]:
    """A kernel of a test's own, without nbaccel."""
    with running_kernel() as running:
        yield running
