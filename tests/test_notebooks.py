"""Every notebook runs from its first cell to its last, in a real kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def execute(name: str, folder: Path) -> str:
    command = [sys.executable, str(NOTEBOOKS / "run.py"), str(NOTEBOOKS / name), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_run_learns_and_draws(tmp_path: Path) -> None:
    printed = execute("01_first_run.ipynb", tmp_path)
    accuracy = re.search(r"^held-out accuracy: (0\.\d+)$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 0.97
    assert "264 steps, each on 64 digits" in printed
    assert (tmp_path / "01_first_run.ipynb").stat().st_size > 10_000
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_failing_cell_fails_the_run(tmp_path: Path) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    bad = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1/0")]), bad)
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run.py"), str(bad), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_every_notebook_has_a_test(path: Path) -> None:
    assert path.name in Path(__file__).read_text()
