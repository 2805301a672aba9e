"""A place without anybody's configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, and an environment that sets no key."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "NBACCEL_", "FSDP_", "OMP_", "HF_", "XDG_", "CUDA_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
