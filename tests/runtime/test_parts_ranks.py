"""Compression, compiling, joining, profiling and closing on real process groups."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from runtime_ranks import run_ranks

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).parent / "parts_checks.py"
NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", CHECKS.read_text(), re.MULTILINE)
SIZE = 2


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("parts")
    run_ranks(SIZE, CHECKS, str(folder), timeout_s=250)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.mark.parametrize("name", NAMES)
def test_parts_on_ranks(name: str, verdicts: list[dict[str, str]]) -> None:
    troubles = [found[name] for found in verdicts]
    assert not any(troubles), "\n".join(filter(None, troubles))
