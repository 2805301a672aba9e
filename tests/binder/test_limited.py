"""The limit on memory that the notebook for Binder runs under."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("limited.py")
CHILD = "import time; x = b'1' * (400 << 20); time.sleep(60)"
HOG = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def run(limit_mb: int, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(limit_mb), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_what_grows_too_large_is_ended_with_all_below_it() -> None:
    done = run(200, HOG)
    assert done.returncode == 1
    assert "are more than the limit of 200 MB" in done.stderr


def test_what_stays_small_keeps_its_exit_code() -> None:
    done = run(200, "import time, sys; time.sleep(0.5); sys.exit(3)")
    assert done.returncode == 3
    assert "MB at most, of 200 MB" in done.stdout
