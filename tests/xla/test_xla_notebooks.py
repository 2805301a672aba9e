"""The notebooks for TPUs run with torch_xla, its CPU devices in the chips' place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(name: str, platform: str, chips: int, folder: Path) -> str:
    """What a notebook prints where launches choose XLA's devices."""
    settings = folder / "xla.yaml"
    settings.write_text("distributed_type: XLA\n")
    simulated = {
        "ACCELERATE_CONFIG_FILE": str(settings),
        "CPU_NUM_DEVICES": str(chips),
        "NBACCEL_PLATFORM": platform,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # what %pip finds
    }
    command = [sys.executable, str(NOTEBOOKS / "run.py"), str(NOTEBOOKS / name), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, env={**os.environ, **simulated})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "platform", "chips", "launches"),
    [("colab_tpu.ipynb", "colab", 1, ["1"]), ("kaggle_tpu.ipynb", "kaggle", 4, ["1", "4"])],
)
def test_the_digits_are_learned(name: str, platform: str, chips: int, launches: list[str], tmp_path: Path) -> None:
    printed = execute(name, platform, chips, tmp_path)
    assert re.findall(r"^(\d) workers on xla:0$", printed, re.MULTILINE) == launches
    accuracy = re.search(r"^right on (\d+\.\d)% of the held-out digits$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 97, "as on the CPU"


@pytest.mark.timeout(600)
def test_the_tutorial_runs_as_it_is(tmp_path: Path) -> None:
    printed = execute("01_first_run.ipynb", "jupyter", 2, tmp_path)
    accuracy = re.search(r"^held-out accuracy: (0\.\d+)$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 0.97, "as on the CPU"
