"""Starts real ranks for the tests of the runtime."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CHECKS = Path(__file__).parent / "rank_checks.py"
Verdicts = dict[str, list[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }


def run_ranks(size: int, script: Path, *arguments: str, timeout_s: float = 500) -> None:
    """Run a script on `size` real processes, with the modules of this folder at hand; each must end well."""
    port, ranks = free_port(), []
    for rank in range(size):
        environment = rank_environment(rank, size, port)
        environment["PYTHONPATH"] = os.pathsep.join([str(CHECKS.parent), environment.get("PYTHONPATH", "")])
        ranks.append(subprocess.Popen([sys.executable, str(script), *arguments], env=environment))
    try:
        assert [process.wait(timeout=timeout_s) for process in ranks] == [0] * size
    finally:
        for process in ranks:
            process.kill()


def verdict(check: Callable[[], None]) -> str:
    """What went wrong in a check on this rank, as a traceback, which is printed too; empty if nothing did."""
    try:
        check()
    except Exception:  # noqa: BLE001 (the verdict carries it to the test)
        trouble = traceback.format_exc()
        print(trouble, flush=True)
        return trouble
    return ""


def with_library(script: Path, library: str, folder: Path) -> Path:
    """A copy of a script that is written for Accelerate, with another library's name in its place."""
    copy = folder / f"{library}_{script.name}"
    copy.write_text(script.read_text().replace("accelerate", library))
    return copy


def run_checks(size: int, folder: Path) -> Verdicts:
    """Run all checks of `rank_checks.py` on `size` real processes; for each check the tracebacks, one per rank."""
    run_ranks(size, CHECKS, str(folder), timeout_s=100)
    found: Verdicts = {}
    for rank in range(size):
        for name, trouble in json.loads((folder / f"{rank}.json").read_text()).items():
            found.setdefault(name, []).append(trouble)
    return found
