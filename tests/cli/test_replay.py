"""A launch leaves a snapshot, and a snapshot is launched again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def nbaccel(*words: str) -> str:
    command = [sys.executable, "-m", "nbaccel.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_launch_is_run_again_from_its_snapshot(nowhere: Path) -> None:
    (nowhere / "train.py").write_text(
        "import sys\nfrom nbaccel import Accelerator\n"
        "accelerator = Accelerator()\n"
        "accelerator.print(sys.argv[1:], accelerator.num_processes, accelerator.mixed_precision)\n"
    )
    flags = ("-n", "2", "--cpu", "--mixed-precision", "bf16", "--project-dir", "out")
    first = nbaccel("launch", *flags, "train.py", "--its", "own")
    assert first == "['--its', 'own'] 2 bf16\n"
    (snapshot,) = (nowhere / "out").rglob("nbaccel_config.yaml")
    assert "mixed_precision: the flag --mixed-precision (call)" in snapshot.read_text()
    assert nbaccel("config", "replay", str(snapshot)) == first
