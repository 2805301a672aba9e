"""Exporting from a real kernel: the script gives under `nbaccel launch` what the notebook gave."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Kernel, running_kernel

pytestmark = pytest.mark.slow

TRAIN = """def train(epochs):
    accelerator = Accelerator()
    total = accelerator.reduce(torch.ones(2) * (accelerator.process_index + 1), "sum")
    return {"total": total.tolist(), "lr": config["lr"], "steps": epochs * SCALE, "precision": accelerator.mixed_precision}"""
CELL = """%%accelerate -n 2 --mixed-precision bf16 --seed 5 rate=3
accelerator = Accelerator()
text = '''two
lines'''
if accelerator.is_main_process:
    print([params.rate, text, config["lr"], accelerator.num_processes, accelerator.mixed_precision, torch.rand(1).item()])"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exporting")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Iterator[Kernel]:
    """A kernel in which cells have run, some of them in vain."""
    with running_kernel(HF_HOME=str(folder / "home")) as running:
        running.ok(f"import os; os.chdir({str(folder)!r})")
        running.ok("%load_ext nbaccel\nimport nbaccel")
        running.ok("import torch\nfrom nbaccel import Accelerator, notebook_launcher\n!true")
        running.ok("config = {'lr': 0.1}")
        running.ok("config['lr'] = 0.5")
        assert running.run("config = 1 / 0").error
        running.ok("SCALE = 2")
        running.ok(TRAIN)
        yield running


def output_of(folder: Path, *command: str) -> str:
    """What a command prints."""
    environ = os.environ | {"HF_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def launched(folder: Path, name: str) -> str:
    program = str(Path(sys.executable).with_name("nbaccel"))
    return output_of(folder, program, "launch", "--config_file", f"{name}.yaml", f"{name}.py")


def test_a_launched_function_gives_the_same_as_a_script(trained: Kernel, folder: Path) -> None:
    trained.ok("found = notebook_launcher(train, (3,), num_processes=2, mixed_precision='bf16')\nfound")
    in_notebook = trained.value("found")
    said = trained.ok("%accelerate export train.py").displays[0]["text/plain"]
    assert "run it: nbaccel launch --config_file train.yaml train.py" in said
    assert "for config" in said
    assert "1 / 0" not in (folder / "train.py").read_text()
    assert ast.literal_eval(launched(folder, "train")) == in_notebook


def test_a_cell_gives_the_same_as_a_script_and_alone(trained: Kernel, folder: Path) -> None:
    printed = trained.ok(CELL).text()
    trained.ok("%accelerate export cell.py")
    assert launched(folder, "cell") == printed
    alone = ast.literal_eval(output_of(folder, sys.executable, "cell.py"))
    assert alone == [3, "two\nlines", 0.5, 1, "bf16", ast.literal_eval(printed)[-1]]


def test_the_function_does_what_the_magic_does(trained: Kernel, folder: Path) -> None:
    shown = trained.ok("nbaccel.export('by_number.py', [8])").displays[0]
    assert "cell [8]: chosen" in shown["text/plain"]
    assert "<td>[7]</td><td>for SCALE</td>" in shown["text/html"]
    script = (folder / "by_number.py").read_text()
    assert "nbaccel.export" not in script
    assert not (folder / "by_number.yaml").exists()


def test_files_that_differ_are_kept_and_the_difference_is_shown(trained: Kernel, folder: Path) -> None:
    trained.ok("%accelerate export kept.py --cells 8")
    trained.ok("%accelerate export kept.py --cells 8")
    (folder / "kept.py").write_text("mine = 1\n")
    answer = trained.run("%accelerate export kept.py --cells 8")
    assert "UsageError: %accelerate export: kept.py exists already, different as shown: --force" in answer.text(
        "stderr"
    )
    assert "-mine = 1" in answer.text()
    assert (folder / "kept.py").read_text() == "mine = 1\n"
    trained.ok("%accelerate export kept.py --cells 8 --force")
    assert "def train" in (folder / "kept.py").read_text()


def test_cells_with_the_tag_are_taken_from_the_notebooks_file(trained: Kernel, folder: Path) -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["export"]}, "source": "SCALE = 2"}
    (folder / "own.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert "cell [7]: chosen" in trained.ok("%accelerate export own.py --notebook own.ipynb").displays[0]["text/plain"]
    trained.ok("__vsc_ipynb_file__ = os.path.abspath('own.ipynb')")
    assert "cell [7]: chosen" in trained.ok("%accelerate export own2.py").displays[0]["text/plain"]
    assert "Exported from own.ipynb" in (folder / "own2.py").read_text()
    trained.ok("del __vsc_ipynb_file__")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "a name is missing: %accelerate export train.py."),
        ("train.txt", "'train.txt' is no name of a script. Possible: a name that ends with .py."),
        ("gone/train.py", "there is no folder 'gone'; make it first."),
        ("train.py --cells 99", "there is no cell [99] that ran well and is Python. Possible: "),
        ("train.py --cells trian", "no cell launches a function 'trian'"),
        ("train.py --celsl 3", "unrecognized arguments: --celsl 3. %accelerate export --help shows how it is written."),
        ("'train.py", "No closing quotation in"),
    ],
)
def test_wrong_use_is_explained_in_one_line(trained: Kernel, line: str, said: str) -> None:
    answer = trained.run(f"%accelerate export {line}")
    assert f"UsageError: %accelerate export: {said}" in answer.text("stderr")
    assert answer.text("stderr").count("\n") == 1
