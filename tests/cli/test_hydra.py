"""Hydra's composition and its sweeps, in scripts that `nbaccel launch` runs and from code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """\
import hydra
import torch
from omegaconf import DictConfig
from nbaccel import Accelerator

@hydra.main(config_path="conf", config_name="config", version_base=None)
def main(cfg: DictConfig) -> None:
    accelerator = Accelerator()
    total = accelerator.reduce(torch.ones(1)).item()
    accelerator.print("lr", cfg.lr, "epochs", cfg.trainer.epochs, "ranks", total, accelerator.mixed_precision)

main()
"""


@pytest.fixture
def script(nowhere: Path) -> Path:
    (nowhere / "conf/trainer").mkdir(parents=True)
    (nowhere / "conf/config.yaml").write_text("defaults: [trainer: small, _self_]\nlr: 0.1\n")
    (nowhere / "conf/trainer/small.yaml").write_text("epochs: 2\n")
    (nowhere / "conf/trainer/large.yaml").write_text("epochs: 9\n")
    (nowhere / ".accelerate").mkdir()
    (nowhere / ".accelerate/default_config.yaml").write_text("use_cpu: true\nnum_processes: 2\nmixed_precision: bf16\n")
    script = nowhere / "train.py"
    script.write_text(SCRIPT)
    return script


def launched(*words: str) -> list[str]:
    command = [sys.executable, "-m", "nbaccel.cli.main", "launch", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("lr")]


def test_composition_and_overrides_are_the_scripts_own(script: Path) -> None:
    assert launched(script.name, "trainer=large", "lr=0.5") == ["lr 0.5 epochs 9 ranks 2.0 bf16"]


def test_a_sweep_runs_one_job_after_the_other_on_all_ranks(script: Path) -> None:
    assert launched(script.name, "--multirun", "lr=0.1,0.2") == [
        "lr 0.1 epochs 2 ranks 2.0 bf16",
        "lr 0.2 epochs 2 ranks 2.0 bf16",
    ]
