"""The worker's shell takes modules from where the kernel does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
before = list(sys.path)
from nbaccel.worker.shell import make_shell
make_shell()
added = [folder for folder in sys.path if folder not in before and "site-packages" in folder]
assert not added, added
"""


def test_another_environment_that_is_active_is_not_mixed_in(tmp_path: Path) -> None:
    """The zygote would import that one's torch, and workers would have the packages of two environments."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "lib" / version / "site-packages").mkdir(parents=True)
    environ = {**os.environ, "VIRTUAL_ENV": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
