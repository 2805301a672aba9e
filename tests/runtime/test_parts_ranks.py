"""Compression, compiling, joining, profiling and closing on real process groups."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_ranks import free_port, rank_environment

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).parent / "parts_checks.py"
NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", CHECKS.read_text(), re.MULTILINE)
SIZE = 2


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder, port = tmp_path_factory.mktemp("parts"), free_port()
    command = [sys.executable, str(CHECKS), str(folder)]
    ranks = [subprocess.Popen(command, env=rank_environment(rank, SIZE, port)) for rank in range(SIZE)]
    try:
        assert [process.wait(timeout=250) for process in ranks] == [0] * SIZE
    finally:
        for process in ranks:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.mark.parametrize("name", NAMES)
def test_parts_on_ranks(name: str, verdicts: list[dict[str, str]]) -> None:
    troubles = [found[name] for found in verdicts]
    assert not any(troubles), "\n".join(filter(None, troubles))
