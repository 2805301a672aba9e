"""Runs a command that may use so much memory with all its processes, as a container would let it.

python tests/binder/limited.py MEGABYTES COMMAND ...
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

_LOOK_EVERY_S = 0.2


def main(limit_mb: int, command: list[str]) -> int:
    """Returns the command's exit code, 1 if it was ended for its memory."""
    process = psutil.Popen(command)
    peak_mb = 0.0
    while process.poll() is None:
        now_mb = used_bytes(process) / 2**20
        peak_mb = max(peak_mb, now_mb)
        if now_mb > limit_mb:
            for one in [*process.children(recursive=True), process]:
                one.kill()
            print(f"ended: {now_mb:.0f} MB are more than the limit of {limit_mb} MB", file=sys.stderr)
            return 1
        time.sleep(_LOOK_EVERY_S)
    print(f"memory: {peak_mb:.0f} MB at most, of {limit_mb} MB")
    return int(process.wait())


def used_bytes(process: psutil.Process) -> int:
    """Memory of a process and all below it; what several share counts once."""
    return sum(map(own_bytes, [process, *children_of(process)]))


def own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
    except (subprocess.SubprocessError, OSError) as error:
        sys.exit(str(error))
