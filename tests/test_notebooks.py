"""Every notebook runs from its first cell to its last, in a real kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def execute(name: str, folder: Path, **environ: str) -> str:
    command = [sys.executable, str(NOTEBOOKS / "run.py"), str(NOTEBOOKS / name), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env={**os.environ, **environ})
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


def test_sessions_keeps_trains_sends_and_brings_home(tmp_path: Path) -> None:
    printed = execute("02_sessions.ipynb", tmp_path)
    lines = printed.splitlines()
    assert {"this is rank 0 of 2", "[1] this is rank 1 of 2", "10", "[1] 11", "tensor(3.)"} < set(lines)
    steps = re.findall(r"^loss \S+ after (\d+) steps$", printed, re.MULTILINE)
    assert steps == ["88", "176", "220", "242"], printed
    for epochs in ("rank 0 epochs: 100%", "rank 1 epochs: 100%"):
        assert printed.count(epochs) == len(steps)
    sent = [line for line in lines if re.fullmatch(r"0\.\d", line)]
    assert sent == ["0.0", "0.0", "0.1", "0.2"], "at first, changed in place, pushed, bound anew"
    accuracy = re.search(r"^held-out accuracy: (0\.\d+), still the same model: True$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 0.95
    assert f"the job tested on both ranks: {accuracy[1]}\nrank 1 tests 225 digits\n" in printed
    assert "runs cell [" in printed
    assert {"stopped", "220 steps are not lost"} < set(lines)
    assert [line for line in lines if line.startswith("the table")] == [
        "the table adds up to 0",
        "the table adds up to 15",
    ]
    assert errors_in(tmp_path / "02_sessions.ipynb") == [
        "rank 1 of 2 failed: ValueError: rank 1 does not want to go on"
    ]
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_kaggles_two_gpus_are_two_workers(tmp_path: Path) -> None:
    printed = execute("kaggle_2xT4.ipynb", tmp_path, NBACCEL_PLATFORM="kaggle")
    assert "kaggle" in printed.lower()
    assert "2 workers on " in printed
    accuracy = re.search(r"^450 digits, (\d+\.\d)% right$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 97
    assert errors_in(tmp_path / "kaggle_2xT4.ipynb") == []


@pytest.mark.parametrize(("name", "platform"), [("colab_tpu.ipynb", "colab"), ("kaggle_tpu.ipynb", "kaggle")])
def test_notebooks_for_tpus_run_without_one_too(name: str, platform: str, tmp_path: Path) -> None:
    printed = execute(name, tmp_path, NBACCEL_PLATFORM=platform)
    assert re.search(r"^\d workers on cpu$", printed, re.MULTILINE), printed
    accuracy = re.search(r"^right on (\d+\.\d)% of the held-out digits$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 95
    assert errors_in(tmp_path / name) == []


def errors_in(notebook: Path) -> list[str]:
    """Messages of the errors that an executed notebook's cells ended with."""
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return [output["evalue"] for output in outputs if output["output_type"] == "error"]


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


def imported_packages() -> set[str]:
    """Names of what the cells of all notebooks import, beside nbaccel and Python's own."""
    cells = [cell for path in NOTEBOOKS.glob("*.ipynb") for cell in json.loads(path.read_text())["cells"]]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
    return {name for name in found - sys.stdlib_module_names if not name.startswith("nbaccel")}


def test_binder_and_the_extra_bring_what_the_notebooks_import() -> None:
    binder = (NOTEBOOKS.parent / "binder" / "requirements.txt").read_text()
    project = (NOTEBOOKS.parent / "pyproject.toml").read_text()
    extras = re.findall(r"^(?:torch|notebooks) = \[(.*)\]$", project, re.MULTILINE)
    own = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert own is not None
    brought = set(re.findall(r'"([\w-]+)', own[1] + "".join(extras)))
    pinned = set(re.findall(r"^([\w-]+)==", binder, re.MULTILINE))
    needed = {packages_distributions()[name][0] for name in imported_packages()}
    assert {"omegaconf", "torch", "scikit-learn"} <= needed
    assert (needed - brought, needed - pinned) == (set(), set())


def test_configuration_explains_itself(tmp_path: Path) -> None:
    printed = execute("04_configuration.ipynb", tmp_path)
    assert "mixed_precision = 'bf16' from .accelerate/default_config.yaml:4:18 (project)" in printed
    assert "mixed_precision = 'no' from %accelerate set mixed_precision (notebook)" in printed
    assert "  shadows 'fp16' from the variable ACCELERATE_MIXED_PRECISION (environment)" in printed
    assert "seed = 7 from shared.yaml:1:7 (project)" in printed
    assert [line for line in printed.splitlines() if line.startswith("lr ")] == [
        "lr 0.01, momentum 0.9, 3 epochs of batches of 64",
        "lr 0.01, momentum 0.9, 10 epochs of batches of 64",
        "lr 0.01, momentum 0.5, 3 epochs of batches of 64",
        "lr 0.5, momentum 0.9, 2 epochs of batches of 8",
    ]
    assert "0.5 {'epochs': 1, 'batch_size': 64}" in printed
    assert "Did you mean 'bf16'?" in printed
    assert "the key 'mixed_precison' (in broken.yaml:2:1) is not valid" in printed
    assert "nbaccel_snapshot: 1" in printed
    assert errors_in(tmp_path / "04_configuration.ipynb") == []
