"""Data loading on real process groups."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from runtime_ranks import run_ranks

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "data_rank_checks.py"
NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", SCRIPT.read_text(), re.MULTILINE)
SIZE = 2


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Tracebacks by turn and check, one per rank."""
    folder = tmp_path_factory.mktemp("data")
    found: dict[str, list[str]] = {}
    for turn in ("first", "again"):
        run_ranks(SIZE, SCRIPT, str(folder), turn, timeout_s=100)
        for rank in range(SIZE):
            for name, trouble in json.loads((folder / f"{turn}{rank}.json").read_text()).items():
                found.setdefault(f"{turn} {name}", []).append(trouble)
    return found


@pytest.mark.parametrize("name", [*(f"first {name}" for name in NAMES), "again check_resume"])
def test_data_on_ranks(name: str, verdicts: dict[str, list[str]]) -> None:
    assert len(verdicts[name]) == SIZE
    assert not any(verdicts[name]), "\n".join(filter(None, verdicts[name]))
