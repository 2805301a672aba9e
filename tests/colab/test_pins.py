"""Colab's packages are as Colab brought them, after nbaccel has been installed."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PINS = [line.split("==") for line in (Path(__file__).parent / "pins.txt").read_text().splitlines() if "==" in line]


def test_this_is_colabs_python() -> None:
    assert sys.version_info[:2] == (3, 13)


@pytest.mark.parametrize(("name", "pinned"), PINS)
def test_nothing_was_upgraded(name: str, pinned: str) -> None:
    assert version(name) == pinned
